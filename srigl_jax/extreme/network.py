"""What a run with many labels trains: an encoder of bags under the classifier."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from srigl_jax import extreme
from srigl_jax.extreme import encoder as encoders
from srigl_jax.extreme.data.features import Bags, Packed, pack
from srigl_jax.extreme.owners import Owners
from srigl_jax.sparsity.schedule import drop_fraction, t_end, update_due

METHODS = ("dense", "bottleneck", "static", "set", "gradient", "positives")
OPTIMIZERS = {"sgd": optax.sgd, "adagrad": optax.adagrad, "adam": optax.adam}

State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
      method: of the topology. static keeps random positions; set regrows at random;
        gradient by the gradient of the last batches. positives chooses at the start,
        once, by the gradient of all examples that each label is positive for, which
        stay the same. dense has all weights, bottleneck too, behind a layer so narrow
        that it has the bytes of k weights.
      width: that features are hashed to; 0 for the features themselves. Growth and the
        start hold some hundred labels or examples as wide as that: hash a vocabulary of
        some 100,000 words.
      k: weights of each label; all, if there are fewer features.
      group: consecutive labels that share positions.
      dense_labels: so many of the most frequent ones have all weights.
      hashes: positions that each feature is hashed to.
      most_features: of an example, the largest; all of dense ones, whatever it says.
      most_labels: of an example at a step, drawn anew each time; those beyond count as
        negative.
      batch_size: examples of a step.
      negatives: labels sampled for each step; 0 for all.
      negative_weight: see `training.train_step`; 0 for the unbiased one.
      start_scale: of the logits that the classifier starts with, see
        `owners.start_from_examples`; 0 for weights of 0.
      start_power: likewise.
      start_share: power of its number of labels that an example is divided by there; 0
        for none.
      loss: "bce" or "squared_hinge".
      bias: of every label at the start; a positive starts with it as its logit.
      optimizer: of the classifier: "sgd", "adagrad" or "adam".
      learning_rate: of the classifier at the first step, falling to 0 linearly.
      bias_rate: share of it for the biases, whose inputs are larger than features.
      encoder_rate: of the embedding (Adam), likewise; 0 for the fixed encoder.
      projection_rate: of the bottleneck's layer (Adam), likewise.
      delta_t: steps between topology updates of set and gradient.
      alpha: share of weights that the first one replaces.
      t_end: share of training after which the topology rests.
      growth_batches: that "gradient" sums over.
      auxiliary_weight: of the loss of an auxiliary head whose labels are random
        clusters, falling to 0 over the first half by a cosine (Ullah et al. 2024); it
        teaches the embedding. 0 for none.
      clusters: of it.
    """

    method: str = "positives"
    width: int = 0
    k: int = 64
    group: int = 1
    dense_labels: int = 0
    hashes: int = 1
    most_features: int = 32
    most_labels: int = 8
    batch_size: int = 256
    negatives: int = 256
    negative_weight: float = 1.0
    start_scale: float = 10.0
    start_power: float = 0.8
    start_share: float = 0.25
    loss: str = "bce"
    bias: float = -5.0
    optimizer: str = "sgd"
    learning_rate: float = 10.0
    bias_rate: float = 0.0
    encoder_rate: float = 0.0
    projection_rate: float = 0.003
    delta_t: int = 100
    alpha: float = 0.3
    t_end: float = 0.66
    growth_batches: int = 8
    auxiliary_weight: float = 0.0
    clusters: int = 2048


class Network:
    """Functions of a state, compiled once for one set of settings.

    The state is a dict of arrays, optimizer states and `Classifier`s: all that a
    checkpoint needs. Whatever is random is a function of the seed and the step.
    """

    def __init__(
        self, settings: Settings, features: int, labels: int, total_steps: int
    ) -> None:
        """Names what is to be trained; computes nothing.

        Args:
          settings: see there.
          features: of the examples.
          labels: how many there are.
          total_steps: after which training ends.

        Raises:
          ValueError: a setting needs more labels than there are.
        """
        _check_labels(settings, labels)
        self.settings, self.features, self.labels = settings, features, labels
        self._width = settings.width or features
        self._is_dense = settings.method in ("dense", "bottleneck")
        # Features of texts are mostly 0: a batch that has only the others' columns fits
        # a processor's cache. A dense layer has weights of all.
        has_dense = self._is_dense or settings.dense_labels
        self._packs = not (settings.width or has_dense)
        self._end = t_end(total_steps, settings.t_end)
        rate = optax.linear_schedule(settings.learning_rate, 0, total_steps)
        self._optimizer = optax.chain(
            OPTIMIZERS[settings.optimizer](rate), _scale_bias(settings.bias_rate)
        )
        rates = {"table": settings.encoder_rate, "projection": settings.projection_rate}
        self._encoder_optimizers = {
            name: optax.adam(optax.linear_schedule(rate, 0, total_steps))
            for name, rate in rates.items()
        }
        self._auxiliary_weight = optax.cosine_decay_schedule(
            settings.auxiliary_weight, max(1, total_steps // 2)
        )
        self._step = jax.jit(self._train, donate_argnums=0, static_argnums=3)
        self._grow = jax.jit(self._grown, donate_argnums=0)
        self._top = jax.jit(self._likeliest, static_argnums=2)

    def init(self, seed: int, examples: Bags, owned: Owners) -> State:
        """The state before the first step.

        Args:
          seed: of positions and weights.
          examples: all that are trained on.
          owned: from `owners.by_label`, of their labels.
        """
        state = self.fresh(seed)
        if self.settings.method == "positives":
            # All weights are 0, so this replaces all that its examples can tell.
            state = self._grow(state, examples, owned, jnp.float32(1))
        if self.settings.start_scale:
            # An example of hundreds of labels says little of each.
            counts = np.bincount(owned.examples, minlength=len(examples.weights))
            shares = np.maximum(counts, 1) ** -self.settings.start_share
            weights = examples.weights * shares[:, None].astype(np.float32)
            state["classifier"] = extreme.start_from_examples(
                state["classifier"],
                self._encode_rows,
                (state["encoder"], examples._replace(weights=weights)),
                owned,
                scale=self.settings.start_scale,
                power=self.settings.start_power,
            )
        return state

    def fresh(self, seed: int) -> State:
        """The state at random positions; its shapes are those of all states."""
        settings = self.settings
        keys = jax.random.split(jax.random.key(seed), 4)
        narrow = equal_bottleneck(settings) if settings.method == "bottleneck" else None
        encoder = encoders.init(
            keys[0],
            self.features,
            settings.width or None,
            hashes=settings.hashes,
            trained=settings.encoder_rate > 0,
            narrow=narrow,
        )
        width = narrow or self._width
        classifier = extreme.init(
            keys[1],
            self.labels,
            width,
            min(settings.k, width),
            group=settings.group,
            bias=settings.bias,
            scale=0.0,
            dense_labels=self.labels if self._is_dense else settings.dense_labels,
            chunk=_chunk(self.labels, settings.group),
        )
        state = {
            "step": jnp.int32(0),
            "seed": jnp.int32(seed),
            "encoder": encoder,
            "encoder_state": encoders.init_state(encoder, self._encoder_optimizers),
            "classifier": classifier,
            "classifier_state": extreme.init_state(self._optimizer, classifier),
        }
        if settings.auxiliary_weight:
            count = settings.clusters
            state["clusters"] = extreme.cluster(keys[2], self.labels, count)
            head = extreme.init(
                keys[3], count, width, width, dense_labels=count, scale=0.0, bias=-5.0
            )
            state["auxiliary"] = head
            state["auxiliary_state"] = extreme.init_state(self._optimizer, head)
        return state

    def step(
        self, state: State, examples: Bags, positives: np.ndarray
    ) -> tuple[State, jax.Array]:
        """One step of training; the state is given away.

        Args:
          state: from `init` or `step`.
          examples: of the batch.
          positives: i32[batch, most], their labels.

        Returns:
          The next state and the loss, f32[].
        """
        batch = examples
        if self.settings.encoder_rate or self._packs_well(examples):
            batch = pack(examples, self.features)
        most_visited = None
        if self.settings.negatives:
            visited = len(np.unique(positives)) + self.settings.negatives
            # Rounded up, so that few programs are compiled.
            most_visited = -(-visited // 256) * 256
        return self._step(state, batch, positives, most_visited)

    def grows(self, step: int) -> bool:
        """Whether the topology changes after so many steps."""
        is_dynamic = self.settings.method in ("set", "gradient")
        return is_dynamic and bool(update_due(step, self.settings.delta_t, self._end))

    def grow(
        self,
        state: State,
        examples: Bags | None = None,
        labels: np.ndarray | None = None,
    ) -> State:
        """One update of the topology; the state is given away.

        Args:
          state: from `init` or `step`.
          examples: "gradient" needs those of the last `growth_batches` batches, in
            their order.
          labels: of these, i32[examples, most].
        """
        settings = self.settings
        fraction = drop_fraction(int(state["step"]), settings.alpha, self._end)
        if settings.method == "gradient":
            if self._packs_well(examples):
                examples = self._packed_batches(examples)
        return self._grow(state, examples, labels, jnp.float32(fraction))

    def top(
        self, state: State, examples: Bags, count: int, rows: int = 128
    ) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest labels: logits f32[examples, count], falling, and numbers."""
        pieces = [
            jax.device_get(
                self._top(state["encoder"], state["classifier"], count, piece)
            )
            for piece in self._packed_pieces(examples, rows)
        ]
        logits, labels = (
            np.concatenate(arrays) for arrays in zip(*pieces, strict=True)
        )
        return logits[: len(examples.weights)], labels[: len(examples.weights)]

    def _packs_well(self, examples):
        return self._packs and examples.columns is not None

    def _packed_pieces(self, examples, rows):
        packs = self._packs_well(examples)
        for piece in _pieces(examples, rows):
            yield pack(piece, self.features) if packs else piece

    def _packed_batches(self, examples):
        """Of one size, stacked: `Packed` of arrays [batches, ...]."""
        pieces = _pieces(examples, self.settings.batch_size)
        packed = [pack(piece, self.features) for piece in pieces]
        size = max(batch.features.size for batch in packed)
        wide = [batch.widened(size, self.features) for batch in packed]
        return jax.tree.map(lambda *arrays: np.stack(arrays), *wide)

    def _train(self, state, batch, positives, most_visited):
        settings, state = self.settings, dict(state)
        key = jax.random.fold_in(jax.random.key(state["seed"]), state["step"])
        negatives = None
        if settings.negatives:
            negatives = extreme.sample_negatives(key, self.labels, settings.negatives)
        train = partial(
            extreme.train_step, optimizer=self._optimizer, loss=settings.loss
        )

        packs = self._packs and isinstance(batch, Packed)
        features = batch.features if packs else None

        def learn(x):
            loss, dx, state["classifier"], state["classifier_state"] = train(
                state["classifier"],
                state["classifier_state"],
                x,
                positives,
                negatives,
                features=features,
                negative_weight=settings.negative_weight or None,
                most_visited=most_visited,
            )
            if settings.auxiliary_weight:
                _, more, state["auxiliary"], state["auxiliary_state"] = train(
                    state["auxiliary"],
                    state["auxiliary_state"],
                    x,
                    extreme.cluster_positives(state["clusters"], positives),
                    weight=self._auxiliary_weight(state["step"]),
                )
                dx = dx + more
            return dx, loss

        state["encoder"], state["encoder_state"], loss = encoders.train(
            state["encoder"],
            state["encoder_state"],
            batch,
            self._width,
            learn,
            self._encoder_optimizers,
        )
        state["step"] = state["step"] + 1
        return state, loss

    def _grown(self, state, examples, labels, fraction):
        old = state["classifier"], state["classifier_state"]
        how = {"optimizer": self._optimizer}
        if self.settings.method == "set":
            # Not the key of a step's negatives.
            key = jax.random.fold_in(jax.random.key(state["seed"]), state["step"])
            key = jax.random.fold_in(key, 1)
            new = extreme.grow_randomly(*old, key, fraction, **how)
        elif self.settings.method == "gradient":
            size, features = self.settings.batch_size, None
            labels = labels.reshape(-1, size, labels.shape[1])
            if isinstance(examples, Packed):
                features, x = examples.features, examples.weights
            else:
                x = self._encode(state["encoder"], examples)
                x = x.reshape(-1, size, x.shape[1])
            how["loss"] = self.settings.loss
            new = extreme.grow_by_gradient(*old, x, labels, fraction, features, **how)
        else:
            inputs = state["encoder"], examples
            how["loss"] = self.settings.loss
            new = extreme.grow_by_positives(
                *old, self._encode_rows, inputs, labels, fraction, **how
            )
        classifier, classifier_state = new
        return state | {"classifier": classifier, "classifier_state": classifier_state}

    def _encode(self, encoder, examples):
        return encoders.encode(encoder, examples, self._width)

    def _encode_rows(self, inputs, numbers):
        encoder, examples = inputs
        return self._encode(encoder, examples.take(numbers))

    def _likeliest(self, encoder, classifier, count, examples):
        if isinstance(examples, Packed):
            x, features = examples.weights, examples.features
            return extreme.top_labels(classifier, x, count, features)
        return extreme.top_labels(classifier, self._encode(encoder, examples), count)


def _check_labels(settings: Settings, labels: int) -> None:
    needed = {"negatives": settings.negatives, "dense_labels": settings.dense_labels}
    if settings.auxiliary_weight:
        needed["clusters"] = settings.clusters
    for name, count in needed.items():
        if count > labels:
            raise ValueError(
                f"settings.{name} is {count}: give at most {labels}, the number of "
                "labels"
            )


def _chunk(labels: int, group: int) -> int:
    """Rows worked on at a time: some hundreds, since few weights of each exist."""
    return -(-min(512, labels) // group) * group


def _scale_bias(factor: float) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: updates | {"bias": factor * updates["bias"]}
    )


def equal_bottleneck(settings: Settings) -> int:
    """The width at which dense weights and moments have the bytes of k weights.

    A float32 weight has none of SGD's moments, one of Adagrad's, two of Adam's; on the
    sparse side there is an index of 16 bits too.
    """
    weight = 4 * {"sgd": 1, "adagrad": 2, "adam": 3}[settings.optimizer]
    return round((weight + 2) * settings.k / weight)


def _pieces(examples: Bags, rows: int):
    """Bags of `rows` examples each, the last one filled up with empty ones."""
    for start in range(0, len(examples.weights), rows):
        piece = examples.take(slice(start, start + rows))
        missing = rows - len(piece.weights)
        yield jax.tree.map(lambda a, n=missing: np.pad(a, ((0, n), (0, 0))), piece)
