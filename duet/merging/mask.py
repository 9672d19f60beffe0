"""One random mask over all task vectors, which learns which weights to keep (arXiv 2312.06173).

θ = θ_0 + Σ_k λ_k τ_k ⊙ r, with r = m / mean(m) in every tensor, so that a mask changes the
direction of a task vector and not its size. Each scalar of m is a concrete (relaxed Bernoulli)
variable m = sigmoid((logit u + x) / T), u uniform in (0, 1); its logit x is what is learned.

Memory of N shared scalars, beside the θ_0 and τ_k that are given: θ, x, m, both moments of Adam and
the gradient of the objective, 6 · 4 N bytes. Autograd sees θ only, as its gradient gives that of x
in closed form, which is written over m.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from duet.merging.chunks import Scratch, Span
from duet.merging.inputs import Inputs
from duet.vectors.tensors import Tensors

Weights = Mapping[str, Sequence[float]]
"""λ of each stage, by tensor name."""

_EDGE = 2.0**-24
"""u keeps this distance from 0 and 1, as float32 numbers do, so that its logit is finite."""
_NODES = 16


class Mask:
    """The mask, the logits that it is drawn from, and the merge that it gives.

    Args:
        inputs: θ_0 and the stages.
        temperature: T in (0, 1]; a smaller one gives masks closer to 0 and 1.
        seed: Of all draws. They depend on (seed, step, place in the model) and on nothing else,
            such as the number of threads.
        lr: Learning rate of Adam on the logits, which start at 0.
    """

    def __init__(self, inputs: Inputs, *, temperature: float, seed: int, lr: float) -> None:
        self._inputs = replace(inputs, listen=None)  # progress counts steps, not passes
        self._temperature, self._seed = temperature, seed
        self.theta = {name: torch.empty(shape) for name, shape in inputs.shapes.items()}
        self._mask = {name: torch.empty(shape) for name, shape in inputs.shapes.items()}
        self._logits = {name: torch.zeros(shape) for name, shape in inputs.shapes.items()}
        self._means: dict[str, float] = {}
        self._adam: torch.optim.Adam | None = None
        self._lr = lr

    def draw(self, step: int) -> None:
        """Draw m for one step of learning."""

        def work(span: Span, scratch: Scratch) -> tuple[str, float]:
            generator = torch.Generator().manual_seed(_seed_of(self._seed, step, span))
            noise = scratch("noise", len(span)).uniform_(generator=generator)
            torch.logit(noise, eps=_EDGE, out=noise)
            mask = torch.add(noise, span.of(self._logits), out=span.of(self._mask))
            mask.div_(self._temperature).sigmoid_()
            return span.name, float(mask.sum(dtype=torch.float64))

        self._remember(self._inputs.each_span(work))

    def expect(self) -> None:
        """Set m to the mean of all draws, which a logit of 0 makes exactly 1/2.

        The noise logit u has the logistic density, and sigmoid is the logistic distribution, so
        that E[m] = P(y' T - y < x) = ∫ p(y) sigmoid(x - T y) dy with y, y' logistic. The
        trapezoid rule with step 1 is within 1e-7 of it for T <= 1, as both factors are analytic
        for |Im y| < π.
        """
        nodes = torch.arange(_NODES + 1, dtype=torch.float64)
        density = torch.sigmoid(nodes) * torch.sigmoid(-nodes)
        density /= density[0] + 2 * density[1:].sum()

        def work(span: Span, scratch: Scratch) -> tuple[str, float]:
            logits, mask = span.of(self._logits), span.of(self._mask)
            low, high = scratch("low", len(span)), scratch("high", len(span))
            # sigmoid(z) = 1/2 + tanh(z / 2) / 2, in pairs of nodes: at x = 0 they cancel exactly.
            torch.mul(logits, 0.5, out=mask).tanh_().mul_(float(density[0]))
            for node, share in zip(nodes.tolist()[1:], density.tolist()[1:], strict=True):
                offset = self._temperature * node
                torch.sub(logits, offset, out=low).mul_(0.5).tanh_()
                torch.add(logits, offset, out=high).mul_(0.5).tanh_()
                mask.add_(low.add_(high), alpha=share)
            mask.mul_(0.5).add_(0.5)
            return span.name, float(mask.sum(dtype=torch.float64))

        self._remember(self._inputs.each_span(work))

    def add_up(self, weights: Weights, out: Tensors | None = None) -> Tensors:
        """Write θ_0 + Σ_k λ_k τ_k ⊙ r into ``out``, by default into `theta`, and return it."""
        target = self.theta if out is None else out

        def work(span: Span, scratch: Scratch) -> None:
            base = self._inputs.theta_0(span, scratch)
            taus = self._inputs.taus(span, base, scratch)  # first: ``out`` may hold a stage
            share, kept = self._share(span, scratch), scratch("kept", len(span))
            piece = span.of(target).copy_(base)
            for tau, weight in zip(taus, weights[span.name], strict=True):
                piece.add_(torch.mul(tau, share, out=kept), alpha=weight)

        self._inputs.each_span_of_all(work)
        return target

    def weight_slopes(self, gradient: Tensors) -> dict[str, list[float]]:
        """Return dL/dλ_k = Σ dL/dθ τ_k r of every tensor, from dL/dθ of `theta`."""

        def work(span: Span, scratch: Scratch) -> tuple[str, list[float]]:
            base = self._inputs.theta_0(span, scratch)
            share, kept = self._share(span, scratch), scratch("kept", len(span))
            share.mul_(span.of(gradient))
            return span.name, [
                float(torch.mul(tau, share, out=kept).sum(dtype=torch.float64))
                for tau in self._inputs.each_tau(span, base, scratch)
            ]

        slopes = {name: [0.0] * len(self._inputs.stages) for name in self._inputs.shapes}
        for name, sums in self._inputs.each_span(work):
            slopes[name] = [one + other for one, other in zip(slopes[name], sums, strict=True)]
        return slopes

    def learn(self, gradient: Tensors, weights: Weights) -> None:
        """Take one step of Adam on the logits, from dL/dθ of `theta`; m is used up.

        With t = Σ_k λ_k τ_k and n scalars in a tensor: dL/dx = (g t - mean(g t r)) m (1 - m) /
        (T mean(m)); the mean is what dividing by mean(m) costs.
        """
        slopes = self.weight_slopes(gradient)

        def work(span: Span, scratch: Scratch) -> None:
            name, count = span.name, len(span)
            pairs = zip(weights[name], slopes[name], strict=True)
            mean = sum(weight * slope for weight, slope in pairs) / self._inputs.sizes[name]
            base = self._inputs.theta_0(span, scratch)
            change, square = scratch("change", count).zero_(), scratch("square", count)
            taus = self._inputs.each_tau(span, base, scratch)
            for tau, weight in zip(taus, weights[name], strict=True):
                change.add_(tau, alpha=weight)
            change.mul_(span.of(gradient)).sub_(mean)
            mask = span.of(self._mask)
            mask.sub_(torch.mul(mask, mask, out=square)).mul_(change)
            mask.div_(self._temperature * self._means[name])

        self._inputs.each_span(work)
        if self._adam is None:
            # Fused: the plain one makes temporaries. Its moments appear with its first step.
            self._adam = torch.optim.Adam(list(self._logits.values()), lr=self._lr, fused=True)
        for name, logits in self._logits.items():
            logits.grad = self._mask[name]
        self._adam.step()

    def freeze(self) -> None:
        """Drop what only learning needs; `draw`, `expect`, `add_up` and `kept` still work."""
        self._adam = None
        for logits in self._logits.values():
            logits.grad = None

    def kept(self) -> float:
        """Return the share of scalars with m > 1/2."""

        def work(span: Span, scratch: Scratch) -> int:
            above = scratch("above", len(span), torch.bool)
            return int(torch.count_nonzero(torch.gt(span.of(self._mask), 0.5, out=above)))

        return float(sum(self._inputs.each_span(work)) / max(sum(self._inputs.sizes.values()), 1))

    def _remember(self, sums: Sequence[tuple[str, float]]) -> None:
        """Keep the mean of m in every tensor; never zero, to divide by it."""
        totals = dict.fromkeys(self._inputs.shapes, 0.0)
        for name, part in sums:
            totals[name] += part
        tiny = torch.finfo(torch.float32).tiny
        self._means = {
            name: max(total / max(self._inputs.sizes[name], 1), tiny)
            for name, total in totals.items()
        }

    def _share(self, span: Span, scratch: Scratch) -> torch.Tensor:
        """Return r of a piece, in scratch memory."""
        out = scratch("share", len(span))
        return torch.div(span.of(self._mask), self._means[span.name], out=out)


def _seed_of(seed: int, step: int, span: Span) -> int:
    text = f"{seed}/{step}/{span.name}/{span.lo}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
