"""Small few-shot problems to build learners for."""

from metarl.learners import ImageShape
from metarl.learners.problem import ImageProblem


def image_problem(generator, filters=4, way=3, classes=12, images=None, train_way=None):
    return ImageProblem(images or ImageShape(), way, filters, classes, generator, train_way)
