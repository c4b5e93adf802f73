"""The gradient-based algorithms, one file each, and their registry."""

from metarl.adaptation.algorithm import GradientAlgorithm
from metarl.adaptation.algorithms.anil import ANIL, ANILAlgorithm
from metarl.adaptation.algorithms.baselines import (
    Pretrained,
    PretrainedAlgorithm,
    Scratch,
    ScratchAlgorithm,
)
from metarl.adaptation.algorithms.boil import BOIL, BOILAlgorithm
from metarl.adaptation.algorithms.learned_optimizer import (
    LearnedOptimizer,
    LearnedOptimizerAlgorithm,
)
from metarl.adaptation.algorithms.lstm_meta_learner import (
    LSTMMetaLearner,
    LSTMMetaLearnerAlgorithm,
)
from metarl.adaptation.algorithms.maml import FOMAML, MAML, MAMLAlgorithm
from metarl.adaptation.algorithms.maml_plus_plus import MAMLPlusPlus, MAMLPlusPlusAlgorithm
from metarl.adaptation.algorithms.meta_sgd import MetaSGD, MetaSGDAlgorithm
from metarl.adaptation.algorithms.reptile import Reptile, ReptileAlgorithm
from metarl.registry import Registry

GRADIENT_ALGORITHMS: Registry[type[GradientAlgorithm]] = Registry("gradient algorithm")
"""Name on the command line -> options. Every experiment but `mann` offers all of them."""

GRADIENT_ALGORITHMS.register("maml", MAMLAlgorithm)
GRADIENT_ALGORITHMS.register("anil", ANILAlgorithm)
GRADIENT_ALGORITHMS.register("boil", BOILAlgorithm)
GRADIENT_ALGORITHMS.register("metasgd", MetaSGDAlgorithm)
GRADIENT_ALGORITHMS.register("mamlplusplus", MAMLPlusPlusAlgorithm)
GRADIENT_ALGORITHMS.register("reptile", ReptileAlgorithm)
GRADIENT_ALGORITHMS.register("lstm", LSTMMetaLearnerAlgorithm)
GRADIENT_ALGORITHMS.register("learned-optimizer", LearnedOptimizerAlgorithm)
GRADIENT_ALGORITHMS.register("pretrained", PretrainedAlgorithm)
GRADIENT_ALGORITHMS.register("scratch", ScratchAlgorithm)

__all__ = [
    "ANIL",
    "BOIL",
    "FOMAML",
    "GRADIENT_ALGORITHMS",
    "MAML",
    "ANILAlgorithm",
    "BOILAlgorithm",
    "LSTMMetaLearner",
    "LSTMMetaLearnerAlgorithm",
    "LearnedOptimizer",
    "LearnedOptimizerAlgorithm",
    "MAMLAlgorithm",
    "MAMLPlusPlus",
    "MAMLPlusPlusAlgorithm",
    "MetaSGD",
    "MetaSGDAlgorithm",
    "Pretrained",
    "PretrainedAlgorithm",
    "Reptile",
    "ReptileAlgorithm",
    "Scratch",
    "ScratchAlgorithm",
]
