"""What the learning half costs: updates of SAC and RLPD, and the policy's forward pass.

Each of our updates runs beside the same update written as one writes it first: a list of
critic modules, autograd, Adam as it comes, one operation per parameter. The contenders take
turns in one process, so that a busy machine slows all of them alike; what counts is the ratio.
Times are processor time spent on one call, over all threads; on a GPU, wall time.

    python benchmarks/learning/algorithms.py [--threads 1] [--rounds 40] [--compile] [--device cuda]
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from user_core.command_line import Parser
from user_core.policies.tanh_gaussian import TanhGaussianConfig, TanhGaussianPolicy
from user_core.policies.tanh_gaussian_network import TanhGaussian
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import Batch
from user_learner.algorithms.off_policy.rlpd import RLPD, RLPDConfig
from user_learner.algorithms.off_policy.sac import SAC, SACConfig

STATE, ACTION = 32, 4
SPEC = RobotSpec("bench", {"state": ArraySpec((STATE,))}, ArraySpec((ACTION,), low=-1.0, high=1.0))


class PlainUpdate:
    """The same algorithm in plain PyTorch: modules in a list, one loop for everything."""

    def __init__(self, config: SACConfig, hidden: tuple[int, ...], compiled: bool = False) -> None:
        self.config, self.device = config, torch.device(config.device)
        self.actor = _mlp(STATE, hidden, 2 * ACTION, False).to(self.device)
        self.critics = nn.ModuleList(
            _mlp(STATE + ACTION, config.critic_hidden, 1, config.layer_norm)
            for _ in range(config.critics)
        ).to(self.device)
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = torch.zeros(1, device=self.device, requires_grad=True)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), 3e-4)
        self.critic_adam = torch.optim.Adam(self.critics.parameters(), 3e-4)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], 3e-4)
        self.critic_loss = torch.compile(self._critic_loss) if compiled else self._critic_loss

    def update(self, batch: Batch) -> float:
        count = self.config.critic_updates
        rows = len(batch) // count
        tensors = [
            torch.from_numpy(a).to(self.device)
            for a in (
                batch.observation["state"], batch.action, batch.reward, batch.discount,
                batch.next_observation["state"],
            )
        ]  # fmt: skip
        for i in range(count):
            state, action, reward, discount, after = (t[i * rows : (i + 1) * rows] for t in tensors)
            with torch.no_grad():
                next_action, log_prob = self._sample(after)
                x = torch.cat([after, next_action], 1)
                chosen = np.random.permutation(len(self.targets))[: self.config.target_critics]
                value = torch.min(torch.stack([self.targets[j](x) for j in chosen]), 0)[0][:, 0]
                target = reward + discount * (value - self.log_alpha.exp() * log_prob)
            loss = self.critic_loss(torch.cat([state, action], 1), target)
            self.critic_adam.zero_grad()
            loss.backward()
            self.critic_adam.step()
            with torch.no_grad():
                pairs = zip(self.targets.parameters(), self.critics.parameters(), strict=True)
                for slow, fast in pairs:
                    slow.mul_(1 - self.config.target_rate).add_(self.config.target_rate * fast)
        return self._update_actor(state)

    def _critic_loss(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return sum(F.mse_loss(critic(x)[:, 0], target) for critic in self.critics)

    def _update_actor(self, state: torch.Tensor) -> float:
        action, log_prob = self._sample(state)
        x = torch.cat([state, action], 1)
        value = torch.stack([critic(x)[:, 0] for critic in self.critics]).mean(0)
        loss = (self.log_alpha.exp().detach() * log_prob - value).mean()
        self.actor_adam.zero_grad()
        loss.backward()
        self.actor_adam.step()
        alpha_loss = -(self.log_alpha.exp() * (log_prob.detach() - ACTION)).mean()
        self.alpha_adam.zero_grad()
        alpha_loss.backward()
        self.alpha_adam.step()
        return loss.item()

    def _sample(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.actor(state).chunk(2, 1)
        return TanhGaussian(mean, log_std.clamp(-10, 2)).transform(torch.randn_like(mean))


def _mlp(inputs: int, hidden: tuple[int, ...], outputs: int, layer_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(inputs, units), *([nn.LayerNorm(units)] * layer_norm), nn.ReLU()]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def batch_of(rows: int) -> Batch:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return Batch(
        {"state": normal(rows, STATE)}, np.tanh(normal(rows, ACTION)), normal(rows),
        np.full(rows, 0.99, np.float32), {"state": normal(rows, STATE)},
    )  # fmt: skip


def race(
    contenders: dict[str, Callable[[], object]], rounds: int, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Seconds of each call, (rounds,), the contenders taking turns; every call ends by reading
    a number back, so that a GPU has finished too."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times_s: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 3):
        for name, call in contenders.items():
            start_s = clock()
            call()
            if turn >= 3:  # caches and allocator are warm
                times_s[name].append(clock() - start_s)
    return {name: np.array(times) for name, times in times_s.items()}


def updates(rounds: int, compiled: bool, device: str) -> None:
    print("| update | batch | plain PyTorch | ours | plain / ours | updates/s |")
    print("|---|---|---|---|---|---|")
    for name, cls, settings, hidden, rows in (
        ("SAC, 2 critics of 256x256", SAC, {}, (256, 256), 256),
        ("RLPD, 4 critics of 128x128, UTD 2", RLPD,
         {"critics": 4, "critic_hidden": (128, 128), "critic_updates": 2}, (128, 128), 128),
        ("RLPD, 10 critics of 256x256, UTD 20", RLPD, {}, (256, 256), 256),
    ):  # fmt: skip
        config = (SACConfig if cls is SAC else RLPDConfig)(**settings, device=device)
        policy = TanhGaussianPolicy(TanhGaussianConfig(hidden=hidden), SPEC)
        batch = batch_of(rows * config.critic_updates)
        ours, plain = cls(config, SPEC, policy), PlainUpdate(config, hidden)
        turns = max(6, rounds // config.critic_updates)
        contenders = {
            "plain": lambda p=plain, b=batch: p.update(b),
            "ours": lambda o=ours, b=batch: o.update(b),
        }
        if compiled:
            faster = PlainUpdate(config, hidden, compiled=True)
            start_s = time.perf_counter()
            faster.update(batch)
            warm_s = time.perf_counter() - start_s
            contenders["compiled"] = lambda f=faster, b=batch: f.update(b)
        times_s = race(contenders, turns, device)
        each_ms = {k: float(np.median(v)) / config.critic_updates * 1e3 for k, v in times_s.items()}
        ratio = float(np.median(times_s["plain"] / times_s["ours"]))
        print(
            f"| {name} | {rows} | {each_ms['plain']:.2f} ms | {each_ms['ours']:.2f} ms "
            f"| {ratio:.2f} | {1e3 / each_ms['ours']:.0f} |"
        )
        if compiled:
            gain = float(np.median(times_s["compiled"] / times_s["ours"]))
            print(
                f"| ... plain with torch.compile, {warm_s:.0f} s to warm up | "
                f"| {each_ms['compiled']:.2f} ms | | {gain:.2f} (compiled / ours) | |"
            )


def pictures(rounds: int, device: str) -> None:
    print("\n| RLPD from two 128x128 cameras, 2 critics, UTD 2 | batch | an update |")
    print("|---|---|---|")
    names = ("image_front", "image_wrist")
    seen = {"state": ArraySpec((STATE,)), **{n: ArraySpec((128, 128, 3), "uint8") for n in names}}
    spec = RobotSpec("bench", seen, SPEC.action)
    rng = np.random.default_rng(0)
    for precision, rows in (("float32", 64), *([("bfloat16", 256)] if device != "cpu" else [])):
        settings = {"critics": 2, "critic_updates": 2, "device": device, "precision": precision}
        ours = RLPD(RLPDConfig(**settings), spec, TanhGaussianPolicy(TanhGaussianConfig(), spec))
        batch = batch_of(2 * rows)
        for observation in (batch.observation, batch.next_observation):
            for name in names:
                observation[name] = rng.integers(0, 256, (2 * rows, 128, 128, 3), np.uint8)
        times_s = race({"ours": lambda o=ours, b=batch: o.update(b)}, max(3, rounds // 8), device)
        each_ms = float(np.median(times_s["ours"])) / 2 * 1e3
        print(f"| {precision} | {rows} | {each_ms:.1f} ms |")


def inference(rounds: int) -> None:
    print("\n| one action, policy of | torch | numpy (ours) | torch / numpy |")
    print("|---|---|---|---|")
    for hidden in ((128, 128), (256, 256), (512, 512)):
        policy = TanhGaussianPolicy(TanhGaussianConfig(hidden=hidden), SPEC)
        observation = {"state": np.ones(STATE, np.float32)}
        network = policy.network()

        def by_torch(n=network, o=observation) -> np.ndarray:
            with torch.inference_mode():
                found = n.distribution(n.encode({"state": torch.from_numpy(o["state"])[None]}))
                noise = torch.randn_like(found.mean)
                return torch.tanh(found.mean + found.log_std.exp() * noise)[0].numpy()

        contenders = {"torch": by_torch, "ours": lambda p=policy, o=observation: p.act(o)}
        times_s = race(contenders, rounds)
        medians_us = {name: float(np.median(times)) * 1e6 for name, times in times_s.items()}
        ratio = float(np.median(times_s["torch"] / times_s["ours"]))
        print(
            f"| {hidden[0]}x{hidden[1]} | {medians_us['torch']:.0f} us | {medians_us['ours']:.0f} us "
            f"| {ratio:.2f} |"
        )


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of one torch operation")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--device", default="cpu", help="torch device of the updates")
    parser.add_argument("--compile", action="store_true", help="also race torch.compile")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.threads} thread(s)\n")
    updates(arguments.rounds, arguments.compile, arguments.device)
    pictures(arguments.rounds, arguments.device)
    inference(50 * arguments.rounds)


if __name__ == "__main__":
    main()
