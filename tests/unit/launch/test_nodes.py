"""The nodes of a learner: given by hand, read from Slurm, and reached."""

import socket

import psutil
import pytest
from prolong.common.errors import ProlongError, UserError
from prolong.launch.nodes import (
    Nodes,
    address_towards,
    check_node_0,
    first_host,
    interface_of,
    nodes_by_hand,
    nodes_of_slurm,
    wait_for_node_0,
)

from tests.support.runs import free_port

STEP = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[03-05,9]",
    "SLURM_NODEID": "2",
}


def test_nodes_by_hand_meet_at_an_address_of_node_0() -> None:
    assert nodes_by_hand(2, 1, "10.0.0.1:29500") == Nodes(count=2, index=1, host="10.0.0.1", port=29500)
    assert nodes_by_hand(2, 0, "[fd00::1]:29500").host == "fd00::1"
    assert nodes_by_hand(1, 0, "") == Nodes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 0, "10.0.0.1:29500"), "--nodes 0"),
        ((2, 2, "10.0.0.1:29500"), "--node-rank 2: expected 0 to 1"),
        ((2, -1, "10.0.0.1:29500"), "--node-rank -1"),
        ((2, 0, ""), "--rendezvous ''"),
        ((2, 0, "10.0.0.1"), "--rendezvous"),
        ((2, 0, "10.0.0.1:0"), "--rendezvous"),
        ((2, 0, "10.0.0.1:http"), "--rendezvous"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(arguments: tuple[int, int, str], named: str) -> None:
    with pytest.raises(UserError, match=named.replace("[", r"\[")):
        nodes_by_hand(*arguments)


def test_a_slurm_step_tells_its_nodes() -> None:
    assert nodes_of_slurm(STEP) == Nodes(count=4, index=2, host="gpu03", port=24_567)


def test_outside_of_slurm_and_in_a_step_of_one_node_there_is_one_node() -> None:
    assert nodes_of_slurm({}) == Nodes()
    # a batch script without srun: its job has many nodes, but only one runs the script
    assert nodes_of_slurm({"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "8", "SLURM_NODEID": "0"}) == Nodes()
    assert nodes_of_slurm(STEP | {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"}) == Nodes()


def test_a_task_for_each_gpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"32 tasks on 4 nodes.*--ntasks-per-node=1"):
        nodes_of_slurm(STEP | {"SLURM_STEP_NUM_TASKS": "32"})


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("gpu01", "gpu01"),
        ("gpu01,gpu02", "gpu01"),
        ("gpu[03-05,9],login", "gpu03"),
        ("rack2-gpu[7,9-12].cluster", "rack2-gpu7.cluster"),
        ("r[1-2]n[04-09]", "r1n04"),
    ],
)
def test_the_first_host_of_a_node_list(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_the_way_to_node_0_gives_address_and_interface() -> None:
    address = address_towards(Nodes(count=2, index=1, host="127.0.0.1", port=29_500))
    assert address == "127.0.0.1"
    assert address in {each.address for each in psutil.net_if_addrs()[interface_of(address)]}
    assert interface_of("192.0.2.1") == ""
    with pytest.raises(UserError, match="no way from here to no-such-host"):
        address_towards(Nodes(count=2, index=1, host="no-such-host.invalid", port=29_500))


def test_a_node_that_finds_no_node_0_says_where_it_looked() -> None:
    with socket.socket() as node_0:
        # nobody else can listen there, and it does not listen yet
        node_0.bind(("127.0.0.1", 0))
        nodes = Nodes(count=2, index=1, host="127.0.0.1", port=node_0.getsockname()[1])
        with pytest.raises(ProlongError, match=rf"node 0 does not answer at 127.0.0.1:{nodes.port}"):
            wait_for_node_0(nodes, 0.0)
        node_0.listen()
        wait_for_node_0(nodes, 60.0)


def test_node_0_refuses_an_address_of_another_host_and_a_taken_port() -> None:
    with pytest.raises(UserError, match="node 0 cannot listen there"):
        check_node_0(Nodes(count=2, host="192.0.2.1", port=free_port()), "192.0.2.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nodes = Nodes(count=2, host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(UserError, match=f"127.0.0.1:{nodes.port}"):
            check_node_0(nodes, "127.0.0.1")
