"""A second weight transport, small but real: the learner writes the buckets of a version as files, actors read them.

It exists to show that the seam holds: senders, the buffer and downloads run over it unchanged, and it passes the contract that
every transport passes. Learner and actors must share the folder; nothing needs to be connected, so nothing breaks.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from prolong.common.config.sections import WeightsConfig
from prolong.common.errors import WeightsError
from prolong.common.messages import PublishPlan, UpdateWeights
from prolong.common.types import Manifest, Rendezvous
from prolong.common.weights.buckets import PackedWeights, manifest_digest

NAME = "folder"
POLL_S = 0.005


class FolderTransport:
    def open_learner_end(self, cfg: WeightsConfig, device: torch.device) -> FolderLearnerEnd:
        return FolderLearnerEnd(Path(tempfile.mkdtemp(prefix="weights-")))

    def open_actor_end(self, device: torch.device) -> FolderActorEnd:
        return FolderActorEnd(device)


class FolderLearnerEnd:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rendezvous = Rendezvous(transport=NAME, address=str(folder).encode())

    def publish(self, plan: PublishPlan, weights: PackedWeights, phase_timeout_s: float) -> list[float]:
        started = time.perf_counter()
        try:
            partial = Path(tempfile.mkdtemp(dir=self.folder))
            for index, flat in enumerate(weights.buckets):
                (partial / str(index)).write_bytes(flat.cpu().numpy().tobytes())
            partial.rename(self.folder / folder_name(plan, weights.manifest))
        except OSError as error:
            raise WeightsError(f"weights of version {plan.version}: {error}") from error
        return [time.perf_counter() - started]

    def disconnect(self) -> None:
        pass

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class FolderActorEnd:
    def __init__(self, device: torch.device) -> None:
        self.device = device

    def download(self, update: UpdateWeights, phase_timeout_s: float) -> Generator[torch.Tensor]:
        folder = Path(update.rendezvous.address.decode(errors="replace")) / folder_name(update, update.manifest)
        deadline = time.monotonic() + phase_timeout_s
        while not folder.exists():
            if time.monotonic() > deadline:
                raise WeightsError(f"no weights of version {update.version} came into {folder} within {phase_timeout_s:g} s")
            time.sleep(POLL_S)
        for index in range(len(update.manifest.buckets)):
            try:
                content = np.fromfile(folder / str(index), dtype=np.uint8)
            except OSError as error:
                raise WeightsError(f"bucket {index} of version {update.version} is gone: {error}") from error
            yield torch.from_numpy(content).to(self.device)

    def close(self) -> None:
        pass


def folder_name(message: PublishPlan | UpdateWeights, manifest: Manifest) -> str:
    return f"{message.generation}-{message.epoch}-{message.version}-{manifest_digest(manifest)}"
