"""Meta-reinforcement learning: policies, rollouts and policy-gradient learners."""

from metarl.rl.control_learner import ControlLearner
from metarl.rl.distributions import Categorical, Distribution, Gaussian
from metarl.rl.policies import CategoricalPolicy, GaussianPolicy, Policy, policy_for
from metarl.rl.policy_inputs import PolicyInputs
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.problem import ControlProblem
from metarl.rl.rollouts import RolloutNoise, Rollouts, collect, draw_noise
from metarl.rl.settings import PolicyGradientSettings

__all__ = [
    "Categorical",
    "CategoricalPolicy",
    "ControlLearner",
    "ControlProblem",
    "Distribution",
    "Gaussian",
    "GaussianPolicy",
    "Policy",
    "PolicyGradientSettings",
    "PolicyInputs",
    "PolicyLearner",
    "RolloutNoise",
    "Rollouts",
    "collect",
    "draw_noise",
    "policy_for",
]
