"""The inner loop, its update rules and the algorithms made of them."""

from metarl.adaptation.algorithms import (
    FOMAML,
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
from metarl.adaptation.learner import (
    Adapted,
    ControlLearner,
    Learner,
    MetaInputs,
    MetaLoss,
    StreamLearner,
    SupervisedLearner,
)
from metarl.adaptation.update_rules import State, UpdateRule

__all__ = [
    "FOMAML",
    "MAML",
    "Adapted",
    "ControlLearner",
    "GradientLearner",
    "LSTMMetaLearner",
    "LearnedOptimizer",
    "Learner",
    "MAMLPlusPlus",
    "MetaInputs",
    "MetaLoss",
    "MetaSGD",
    "Pretrained",
    "Reptile",
    "Scratch",
    "State",
    "Step",
    "StreamLearner",
    "SupervisedLearner",
    "UpdateRule",
    "inner_loop",
    "task_gradients",
]
