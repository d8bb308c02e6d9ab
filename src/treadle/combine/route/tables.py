"""The table of the family's methods."""

from treadle.combine.route.base import RouteMethod
from treadle.core.registry import Registry

__all__ = ["METHODS"]

_METHODS = "treadle.combine.route.methods"

METHODS: Registry[RouteMethod] = Registry(
    "routing method",
    {
        "random": f"{_METHODS}.random:RandomRoute",
        "best_single": f"{_METHODS}.best_single:BestSingle",
        "task_prior": f"{_METHODS}.task_prior:TaskPrior",
        "knn": f"{_METHODS}.knn:NearestNeighbours",
        "clusters": f"{_METHODS}.clusters:Avengers",
        "ridge": f"{_METHODS}.ridge:Ridge",
        "matrix": f"{_METHODS}.matrix:MatrixFactorisation",
        "mlp": f"{_METHODS}.mlp:Mlp",
        "cascade": f"{_METHODS}.cascade:Cascade",
        "routerdc": f"{_METHODS}.routerdc:RouterDC",
    },
)
