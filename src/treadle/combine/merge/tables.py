"""The table of the family's methods."""

from treadle.combine.merge.base import MergeMethod
from treadle.core.registry import Registry

__all__ = ["METHODS"]

_METHODS = "treadle.combine.merge.methods"

METHODS: Registry[MergeMethod] = Registry(
    "merge method",
    {
        "linear": f"{_METHODS}.linear:Linear",
        "slerp": f"{_METHODS}.slerp:Slerp",
        "nuslerp": f"{_METHODS}.nuslerp:NuSlerp",
        "multislerp": f"{_METHODS}.multislerp:MultiSlerp",
        "karcher": f"{_METHODS}.karcher:Karcher",
        "passthrough": f"{_METHODS}.passthrough:Passthrough",
        "model_stock": f"{_METHODS}.model_stock:ModelStock",
        "arcee_fusion": f"{_METHODS}.arcee_fusion:ArceeFusion",
        "nearswap": f"{_METHODS}.nearswap:NearSwap",
        "task_arithmetic": f"{_METHODS}.task_arithmetic:TaskArithmetic",
        "ties": f"{_METHODS}.ties:Ties",
        "dare_ties": f"{_METHODS}.dare:DareTies",
        "dare_linear": f"{_METHODS}.dare:DareLinear",
        "breadcrumbs": f"{_METHODS}.breadcrumbs:Breadcrumbs",
        "breadcrumbs_ties": f"{_METHODS}.breadcrumbs:BreadcrumbsTies",
        "della": f"{_METHODS}.della:Della",
        "della_linear": f"{_METHODS}.della:DellaLinear",
        "sce": f"{_METHODS}.sce:Sce",
        "ram": f"{_METHODS}.ram:Ram",
        "ramplus_tl": f"{_METHODS}.ramplus_tl:RamPlusTl",
        "regmean": f"{_METHODS}.regmean:RegMean",
        "regmean_plus_plus": f"{_METHODS}.regmean_plus_plus:RegMeanPlusPlus",
        "fisher": f"{_METHODS}.fisher:Fisher",
        "adamerging": f"{_METHODS}.adamerging:AdaMerging",
        "consensus": f"{_METHODS}.consensus:Consensus",
        "tsv": f"{_METHODS}.tsv:TaskSingularVectors",
        "isotropic": f"{_METHODS}.isotropic:Isotropic",
        "iso_cts": f"{_METHODS}.iso_cts:IsoCts",
        "wudi": f"{_METHODS}.wudi:Wudi",
    },
)
