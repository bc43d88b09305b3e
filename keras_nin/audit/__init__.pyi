from .api import Audit as Audit
from .api import audit_model as audit_model
from .api import compare_models as compare_models
from .comparison import ModelComparison as ModelComparison
from .records import AuditBlock as AuditBlock
from .records import AuditRow as AuditRow
from .records import AuditTotal as AuditTotal
from .records import Finding as Finding
