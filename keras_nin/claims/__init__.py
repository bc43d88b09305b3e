"""What well-known articles say about 1x1 convolution, reproduced: their figures, ours, and where each claim holds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "claim": ["Claim", "ClaimFigure", "ClaimResult", "ClaimsResult", "DeclaredFigure"],
        "catalog": ["CLAIMS", "check_claims", "get_claim", "list_claims", "reproduce_claim"],
        "equalities": ["SoftMask", "compute_soft_mask"],
        "networks": ["ClaimTraining"],
    },
)
