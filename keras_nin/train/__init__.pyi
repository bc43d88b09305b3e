from .training import Recipe as Recipe
from .training import TrainResult as TrainResult
from .training import fit_model as fit_model
from .training import get_recipe as get_recipe
