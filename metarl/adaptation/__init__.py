"""The inner loop, its update rules, the algorithms, and the interface of learners."""

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
