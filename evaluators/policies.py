"""The runtime of a policy by its kind."""

from typing import Any

from autotune.evaluators.adapters import Adapter
from autotune.evaluators.diffusers_cache import DiffusersCache
from autotune.evaluators.policy_runtime import PolicyRuntime
from autotune.evaluators.sada_policy import SadaPolicy
from autotune.evaluators.stack_policy import StackPolicy
from autotune.spaces.cache_policy import CachePolicy
from autotune.spaces.inventory import Inventory
from autotune.spaces.noise_schedule import KnownNoise
from autotune.spaces.solver_formula import Prediction


def make_policy(
    policy: CachePolicy,
    pipe: Any,
    adapter: Adapter,
    inventory: Inventory,
    noise: KnownNoise,
    prediction: Prediction,
    *,
    by_alpha: bool,
    replaced: PolicyRuntime | None = None,
) -> PolicyRuntime:
    """What executes a policy on a pipeline; `by_alpha` is `divides_by_alpha` of the scheduler that will run.

    `replaced` is the policy that is on the pipeline now and will be taken off.

    Raises:
        ScheduleMismatchError: a policy of this kind can't run on the pipeline's denoiser.
    """
    denoiser = adapter.denoiser_of(pipe)
    if policy.kind.by_diffusers:
        return DiffusersCache(policy, inventory, denoiser, replaced)
    if policy.kind.is_sada:
        return SadaPolicy(policy, inventory, noise, prediction, by_alpha=by_alpha)
    return StackPolicy(policy, inventory, adapter.list_spans(denoiser))
