"""Choosing landmarks: the sets that a model is an expansion over.

A new method is a file beside ``uniform``, its class in the tables here, and its test.
"""

from typing import TYPE_CHECKING

import lazy_loader as lazy

from mekrr_scale.deprecated import with_old_names

METHODS: dict[str, str] = {
    "uniform": "Uniform",
    "displaced": "Displaced",
    "farthest": "FarthestPoint",
    "leverage": "LeverageScores",
    "structures": "WholeStructures",
}  # what plans call a method: its class

if TYPE_CHECKING:
    from mekrr_scale.landmarks.choices import Balance as Balance
    from mekrr_scale.landmarks.displaced import Displaced as Displaced
    from mekrr_scale.landmarks.distances import first_of_each as first_of_each
    from mekrr_scale.landmarks.distances import median_distance as median_distance
    from mekrr_scale.landmarks.distances import n_distinct as n_distinct
    from mekrr_scale.landmarks.farthest import FarthestPoint as FarthestPoint
    from mekrr_scale.landmarks.leverage import LeverageScores as LeverageScores
    from mekrr_scale.landmarks.method import LandmarkMethod as LandmarkMethod
    from mekrr_scale.landmarks.method import choose as choose
    from mekrr_scale.landmarks.method import landmark_method as landmark_method
    from mekrr_scale.landmarks.pool import Pool as Pool
    from mekrr_scale.landmarks.pool import draw_pool as draw_pool
    from mekrr_scale.landmarks.uniform import Uniform as Uniform
    from mekrr_scale.landmarks.warm import Warm as Warm
    from mekrr_scale.landmarks.whole import WholeStructures as WholeStructures
else:
    __getattr__, __dir__, __all__ = lazy.attach(
        __name__,
        submod_attrs={
            "choices": ["Balance"],
            "displaced": ["Displaced"],
            "distances": ["first_of_each", "median_distance", "n_distinct"],
            "farthest": ["FarthestPoint"],
            "leverage": ["LeverageScores"],
            "method": ["LandmarkMethod", "choose", "landmark_method"],
            "pool": ["Pool", "draw_pool"],
            "uniform": ["Uniform"],
            "warm": ["Warm"],
            "whole": ["WholeStructures"],
        },
    )
    __getattr__ = with_old_names(__name__, __getattr__)
