"""The weight transport of docs/extending.md in a copy of the product: chosen by its knob, it carries weights to a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.buffer_process import BufferProcess, make_config
from tests.support.extension import ROOT, diff_of, extended_tree, touched_files
from tests.support.folder_transport import HEADING

LEARNER = """
import sys
import torch
from prolong.common.messages import PublishPlan, PublishResult, Role, SyncRequested
from prolong.common.weights.transports import configured_transport
from prolong.learner.weights.packer import WeightPacker
from prolong.learner.weights.sender import WeightSender
from prolong.common.config.run_files import load_config
from tests.support.buffer_process import make_client
from pathlib import Path

address, config = sys.argv[1:]
cfg = load_config(Path(config))
cfg.weights.transport = "folder"
client = make_client(cfg, address, Role.learner, "learner")
inbox = client.inbox(PublishPlan, PublishResult, SyncRequested)
client.connect(60.0)
end = configured_transport(cfg.weights).open_learner_end(cfg.weights, torch.device("cpu"))
packer = WeightPacker([("weight", torch.float32, (4, 4))], 1 << 20)
sender = WeightSender(client, inbox, end, packer, cfg.weights)
sender.start()
sys.stdin.readline()  # the actor is in
sender.publish(packer.pack(0, [("weight", torch.arange(16.0).view(4, 4))]))
assert sender.wait_idle(60.0)
print(sender.metrics()["weights/failed"])
sender.close()
client.close()
"""
ACTOR = """
import sys
import torch
from prolong.actor.weight_download import WeightDownloader
from prolong.common.messages import Role, UpdateWeights, WeightsApplied
from prolong.common.weights.buckets import bucket_views
from prolong.common.config.run_files import load_config
from tests.support.buffer_process import make_client
from pathlib import Path

address, config = sys.argv[1:]
client = make_client(load_config(Path(config)), address, Role.actor, "actor-0")
inbox = client.inbox(UpdateWeights)
client.connect(60.0)
print("in", flush=True)
update = inbox.take(60.0)
downloader = WeightDownloader(torch.device("cpu"))
downloader.start(update, 60.0)
result = downloader.result(60.0)
((_, weight),) = bucket_views(update.manifest.buckets[0], downloader.take_buckets()[0])
print(weight.sum().item())
about = {"generation": update.generation, "version": update.version, "epoch": update.epoch, "seconds": 0.0}
client.send(WeightsApplied(**about, checksums=result.checksums, error=result.error))
client.close()
"""


@pytest.mark.timeout(400)
def test_weights_travel_from_the_sender_through_the_buffer_into_another_process(tmp_path: Path) -> None:
    environment = extended_tree(HEADING, tmp_path / "tree")
    environment["PYTHONPATH"] += f":{ROOT}"
    # none of these processes is missed because it gets no processor for a while
    cfg = make_config(tmp_path, silence_s=60.0)

    def start(program: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, buffer.address, str(buffer.paths.config)]
        return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with BufferProcess(cfg, environment=environment) as buffer, start(LEARNER) as learner, start(ACTOR) as actor:
        assert actor.stdout is not None
        assert actor.stdout.readline() == "in\n"
        said_by_learner, _ = learner.communicate("go\n", timeout=280)
        said_by_actor, _ = actor.communicate(timeout=280)
    assert said_by_actor.strip() == "120.0"
    assert said_by_learner.strip() == "0.0"


def test_it_touches_two_files() -> None:
    assert touched_files(diff_of(HEADING)) == ["common/weights/folder.py", "common/weights/transports.py"]
