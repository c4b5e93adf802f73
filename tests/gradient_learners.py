"""The algorithms as learners of supervised tasks: `MAML(net)` wrapped in a `GradientLearner`."""

from metarl import adaptation
from metarl.adaptation import GradientLearner


def _as_learner(name):
    algorithm = getattr(adaptation, name)

    def build(*args, **kwargs):
        return GradientLearner(algorithm(*args, **kwargs))

    build.__name__ = name
    return build


ANIL = _as_learner("ANIL")
MAML = _as_learner("MAML")
FOMAML = _as_learner("FOMAML")
MetaSGD = _as_learner("MetaSGD")
MAMLPlusPlus = _as_learner("MAMLPlusPlus")
Reptile = _as_learner("Reptile")
LSTMMetaLearner = _as_learner("LSTMMetaLearner")
LearnedOptimizer = _as_learner("LearnedOptimizer")
Pretrained = _as_learner("Pretrained")
Scratch = _as_learner("Scratch")
