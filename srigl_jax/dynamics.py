"""How masks change while a network trains: when, by how much, and by which scores."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from srigl_jax.sparsity import masks as mask_lib
from srigl_jax.sparsity import schedule
from srigl_jax.sparsity.masks import is_masked_node
from srigl_jax.sparsity.plan import LayerPlan, Plan, alike, map_layers

Score = Callable[[jax.Array, jax.Array], jax.Array]
Rule = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """How masks change over time, with all choices made.

    Attributes:
      rule: as in `srigl_jax.transform.sparsify`; None never changes a mask.
      delta_t: steps from one topology update to the next.
      t_end: the step from which on the topology stays.
      fraction: step to share of active weights that an update replaces.
      window: last steps whose mean gradient growth looks at.
      momentum: decay of the running sum of gradients instead; 0 is off.
      prune_score: `(weights, grads) -> score`; the least magnitudes are pruned.
      grow_score: the same; the largest magnitudes grow.
      seed: of random growth.
    """

    rule: Rule | None
    delta_t: int
    t_end: int
    fraction: Callable[[jax.Array], jax.Array]
    window: int
    momentum: float
    prune_score: Score
    grow_score: Score
    seed: jax.typing.ArrayLike

    def due(self, step: jax.Array) -> jax.Array:
        """bool[]: whether `step` ends in a topology update."""
        if self.rule is None:
            return jnp.zeros([], bool)
        return schedule.update_due(step, self.delta_t, self.t_end)

    def init_sum(self, plan: Plan, params):
        """The sum of gradients at the start: f32 like `params`, or () if off."""
        if self.window == 1 and not self.momentum:
            return ()
        return map_layers(
            lambda _, leaf: jnp.zeros_like(leaf, jnp.float32), plan, params
        )

    def update(self, plan: Plan, step, params, updates, grads, masks, gradient_sum):
        """Returns the masks to use from now on, and the new sum of gradients."""
        if self.rule is None:
            return masks, gradient_sum
        due = self.due(step)
        if self.momentum:
            grads, gradient_sum = self._accumulate(grads, gradient_sum)
        if self.window > 1:
            # Neither step 0 nor a step from t_end on ends in an update.
            opened = (-step) % self.delta_t < self.window
            opened &= (step > 0) & (step < self.t_end)
            gradient_sum = jax.tree.map(
                lambda g, s: s if is_masked_node(s) else s + jnp.where(opened, g, 0),
                grads,
                gradient_sum,
            )
            grads = jax.tree.map(
                lambda g, s: g if is_masked_node(s) else s / self.window,
                grads,
                gradient_sum,
            )

        def new_masks():
            stepped = optax.apply_updates(params, updates)
            return self._new_masks(plan, step, stepped, grads, masks)

        def change():
            return jax.lax.cond(_all_finite(grads, masks), new_masks, lambda: masks)

        masks = jax.lax.cond(due, change, lambda: masks)
        if not self.momentum:
            gradient_sum = jax.tree.map(lambda s: jnp.where(due, 0, s), gradient_sum)
        return masks, gradient_sum

    def _accumulate(self, grads, gradient_sum):
        """The running sum, to grow by, and to keep."""

        def add(grad, total):
            if is_masked_node(total):
                return total
            return self.momentum * total + jnp.where(jnp.isfinite(grad), grad, 0)

        totals = jax.tree.map(add, grads, gradient_sum)
        grads = jax.tree.map(lambda g, s: g if is_masked_node(s) else s, grads, totals)
        return grads, totals

    def _new_masks(self, plan: Plan, step, params, grads, masks):
        views = {}

        def view(layer, *leaves):
            views[layer.name] = tuple(map(layer.layout.to_matrix, leaves))
            return leaves[-1]

        map_layers(view, plan, params, grads, masks)
        fraction, changed = self.fraction(step), {}
        for layers in alike(plan):
            names = [layer.name for layer in layers]
            keys = [mask_lib.layer_key(self.seed, name) for name in names]
            keys = jax.vmap(jax.random.fold_in, (0, None))(jnp.stack(keys), step)
            stacked = map(jnp.stack, zip(*(views[name] for name in names), strict=True))
            apply_rule = partial(self._apply_rule, layers[0], fraction)
            changed |= zip(names, jax.vmap(apply_rule)(keys, *stacked), strict=True)
        return map_layers(
            lambda layer, _: layer.layout.from_matrix(changed[layer.name]), plan, params
        )

    def _apply_rule(self, layer: LayerPlan, fraction, key, weights, grads, mask):
        weights = jnp.where(mask, weights, 0)
        return self.rule(
            layer,
            self.prune_score(weights, grads),
            self.grow_score(weights, grads),
            mask,
            fraction=fraction,
            key=key,
        )


def _all_finite(grads, masks):
    """bool[]: whether the gradients of all sparse layers are finite."""
    layers = jax.tree.map(
        lambda g, m: m if is_masked_node(m) else jnp.all(jnp.isfinite(g)), grads, masks
    )
    return jnp.all(jnp.array(jax.tree.leaves(layers), bool))
