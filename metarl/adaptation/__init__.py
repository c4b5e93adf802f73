"""The inner loop: gradient algorithms, update rules, and learners that adapt.

A gradient algorithm such as `MAML` is a function from a network to an `Adaptation`.
`GradientLearner` trains an adaptation on supervised tasks, `metarl.rl.PolicyLearner` on control
tasks.
"""

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithm import GradientAlgorithm, Problem
from metarl.adaptation.algorithms import (
    ANIL,
    BOIL,
    FOMAML,
    GRADIENT_ALGORITHMS,
    MAML,
    LearnedOptimizer,
    LSTMMetaLearner,
    MAMLPlusPlus,
    MetaSGD,
    Pretrained,
    Reptile,
    Scratch,
)
from metarl.adaptation.gradient_learner import GradientLearner
from metarl.adaptation.inner_loop import Step, inner_loop, task_gradients
from metarl.adaptation.learner import Adapted, Learner, MetaInputs, MetaLoss, SupervisedLearner
from metarl.adaptation.parameter_names import all_but
from metarl.adaptation.update_rules import State, UpdateRule

__all__ = [
    "ANIL",
    "BOIL",
    "FOMAML",
    "GRADIENT_ALGORITHMS",
    "MAML",
    "Adaptation",
    "Adapted",
    "GradientAlgorithm",
    "GradientLearner",
    "LSTMMetaLearner",
    "LearnedOptimizer",
    "Learner",
    "MAMLPlusPlus",
    "MetaInputs",
    "MetaLoss",
    "MetaSGD",
    "Pretrained",
    "Problem",
    "Reptile",
    "Scratch",
    "State",
    "Step",
    "SupervisedLearner",
    "UpdateRule",
    "all_but",
    "inner_loop",
    "task_gradients",
]
