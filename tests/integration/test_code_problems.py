"""The code verifier in the real sandbox: golden problems, forgeries, hostile results, and blame.

golden/code.jsonl: problems of our own making. Expected rewards of wrong programs were computed without the sandbox, by running
them in a plain interpreter and comparing with ==.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from prolong.common.errors import UserError, VerifierFailure
from prolong.verifiers import code
from prolong.verifiers.sandbox.launcher import Limits, RunResult
from prolong.verifiers.sandbox.sandbox import COMPILE, HARMLESS_CPP, Sandbox, cpp_compiler

from tests.support.forgeries import FORGERIES
from tests.support.sandboxes import BACKENDS, judge, opened

pytestmark = pytest.mark.usefixtures("in_box")
GOLDEN = Path(__file__).parent.parent / "unit" / "verifiers" / "golden" / "code.jsonl"
PROBLEMS = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
BOUND = {"time_limit_s": 1.0}


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with opened(BACKENDS[request.param]) as sandbox:
        yield sandbox


def test_there_are_enough_golden_problems():
    assert len(PROBLEMS) >= 60
    assert sum(len(problem["wrong"]) for problem in PROBLEMS) >= 60


@pytest.mark.parametrize("golden", PROBLEMS, ids=[problem["name"] for problem in PROBLEMS])
def test_right_programs_get_everything_and_wrong_ones_their_share(golden: dict):
    problem, language = golden["problem"], golden["problem"].get("language", "python")
    right = judge(golden["right"], problem, language)
    assert (right.reward, right.metrics["all_passed"]) == (1.0, 1.0), right
    for program, share in golden["wrong"]:
        wrong = judge(program, problem, language)
        assert wrong.reward == pytest.approx(share), (program, wrong)


SECRET_ANSWERS = {"function": "f", "tests": [{"args": [n], "output": n * 7 + 1000003} for n in (1, 2, 3)], **BOUND}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_program_earns_nothing_that(name: str):
    score = judge(FORGERIES[name], SECRET_ANSWERS)
    assert score.metrics["tests_passed"] <= (1 / 3 if name == "counts up over calls" else 0), score
    assert score.reward < 0.4
    assert judge(FORGERIES[name], SECRET_ANSWERS | {"reward": "all"}).reward == 0.0


RESULTS = {  # bytes that a program writes in place of its result
    "deep": "b'[' * 100_000",
    "deep and closed": "b'[' * 20_000 + b']' * 20_000",
    "deep objects": "b'{\"a\":' * 10_000 + b'1' + b'}' * 10_000",
    "long integer": "b'1' * 5_000",
    "very long integer": "b'9' * 60_000",
    "not a number": "b'NaN'",
    "infinity": "b'-Infinity'",
    "overflow": "b'1e999999999'",
    "repeated keys": 'b\'{"a": 1, "a": 1000010}\'',
    "two values": "b'1000010 1000010'",
    "nothing": "b''",
    "zeros": "b'\\x00' * 1000",
    "not UTF-8": "b'\\xff\\xfe'",
    "lone surrogate": "b'\"\\\\ud800\"'",
    "UTF-16": "'1000010'.encode('utf-16')",
    "huge": "b'1000010' + b' ' * 10_000_000",
    "many lists": "b'[' + b'[],' * 20_000 + b'[]]'",
}


@pytest.mark.parametrize("name", RESULTS)
def test_hostile_results_earn_nothing(name: str):
    program = f"import os\nrest = {RESULTS[name]}\nwhile rest: rest = rest[os.write(4, rest):]\nos._exit(0)"
    assert judge(program, SECRET_ANSWERS).reward == 0.0


def test_a_program_that_writes_the_right_value_itself_has_solved_it():
    program = "import os\ndef f(n):\n    os.write(4, b'%d' % (n * 7 + 1000003))\n    os._exit(0)"
    assert judge(program, SECRET_ANSWERS | {"time_limit_s": 10}).reward == 1.0


ENDINGS = {
    "an exit with 0": ("import sys\nprint(1)\nsys.exit()", b"1\n", "ok"),
    "an exit with 3": ("print(1)\nraise SystemExit(3)", b"1\n", "error"),
    "an exception": ("print(1)\n1 / 0", b"1\n", "error"),
    "a function for the end": ("import atexit\natexit.register(print, 2)\nprint(1)", b"1\n2\n", "ok"),
    "a thread that goes on": ("import threading as t\nt.Timer(.1, print, [2]).start()\nprint(1, flush=True)", b"1\n2\n", "ok"),
    "a file that is never closed": ("out = open(1, 'w')\nout.write('1')", b"1", "ok"),
    "an object that prints when it dies": (
        "class A:\n def __del__(self): print(2)\na = A()\na.a = a\nprint(1)",
        b"1\n2\n",
        "ok",
    ),
    "another standard output": ("import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint(1)", b"1\n", "ok"),
    "a closed standard output": ("import sys\nprint(1)\nsys.stdout.close()", b"1\n", "ok"),
    "no standard output": ("import sys\nprint(1)\nsys.stdout = None", b"1\n", "ok"),
    "no module of its own": ("import sys\nprint(1)\ndel sys.modules['__main__']", b"1\n", "ok"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_program_ends_as_python_lets_it_with(name: str, box: Sandbox):
    program, printed, status = ENDINGS[name]
    result = box.run(program)
    assert (result.stdout, result.status) == (printed, status), result
    plain = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (plain.stdout, plain.returncode) == (printed, result.code)


def test_expectations_never_enter_the_sandbox(box: Sandbox, monkeypatch: pytest.MonkeyPatch):
    sent: list[bytes] = []
    run = Sandbox._run
    # without the limits: what is left of a time that was measured may have any digits
    monkeypatch.setattr(Sandbox, "_run", lambda self, *a: sent.append(repr(a[:3]).encode()) or run(self, *a))
    judge("def f(n): return n", SECRET_ANSWERS)
    judge("print(1)", {"tests": [{"stdin": "1", "stdout": "1000010"}]})
    assert len(sent) == 4
    assert not any(b"10000" in one for one in sent)


def test_too_much_time_in_total_earns_nothing():
    problem = {"function": "f", "tests": [{"args": [0], "output": 0}, {"args": [1], "output": 1}], "time_limit_s": 0.5}
    score = judge("def f(n):\n    while n: pass\n    return n", problem)
    assert (score.reward, score.metrics["tests_passed"]) == (0.0, 0.5)
    assert "more than 0.5 s" in score.detail


def test_a_test_with_a_limit_of_its_own_fails_alone():
    tests = [{"args": [1], "output": 1}, {"args": [0], "output": 0}, {"args": [0], "output": 0}]
    program = "import time\ndef f(n):\n    time.sleep(60 * n)\n    return n"
    score = judge(program, {"function": "f", "tests": tests, "time_limit_s": 5, "test_time_limit_s": 1.0})
    assert score.reward == pytest.approx(2 / 3)


def test_compilers_are_contained(box: Sandbox, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("static_secret_of_ours")
    problem = {"language": "cpp", "tests": [{"stdin": "", "stdout": "static_secret_of_ours"}]}
    for program in (
        f'#include "{secret}"\nint main() {{}}',
        f'#include <cstdio>\nasm(".data\\nx: .incbin \\"{secret}\\"\\n.byte 0\\n");\n'
        'extern "C" char x[];\nint main() { puts(x); }',
        "int main() { return fork(); }",
        "template <int n> struct A { A<n + 1> a; };\nA<0> a;\nint main() {}",
    ):
        score = judge(program, problem, "cpp")
        assert score.reward == 0.0, score
        assert "does not compile" in score.detail
        assert "static_secret" not in score.detail
    with box.compiled("#include <cstdio>\nint main() {}") as (compiled, _):
        assert compiled.status == "ok"


def test_a_program_that_keeps_its_compiler_waiting_earns_nothing(box: Sandbox, monkeypatch: pytest.MonkeyPatch):
    """A compiler may open the pipe that it writes to, and would wait for ever for what is in it."""
    compile_once = Sandbox._compile_once

    def impatient(self: Sandbox, compiler: str, code: str, std: str) -> RunResult:
        # a harmless program has all the time there is: a slow machine is not what this is about
        limits = COMPILE if code == HARMLESS_CPP else replace(COMPILE, wall_s=1.0)
        monkeypatch.setattr("prolong.verifiers.sandbox.sandbox.COMPILE", limits)
        return compile_once(self, compiler, code, std)

    monkeypatch.setattr(Sandbox, "_compile_once", impatient)
    problem = {"language": "cpp", "tests": [{"stdin": "", "stdout": "1"}]}
    for path in ("/dev/stdout", "/dev/stderr", "/proc/self/fd/1"):
        score = judge(f'#include "{path}"\nint main() {{}}', problem, "cpp")
        assert (score.reward, "does not compile" in score.detail) == (0.0, True)


def test_a_machine_that_takes_too_long_to_compile_is_not_the_programs_fault(box: Sandbox, monkeypatch: pytest.MonkeyPatch):
    program, problem = 'extern "C" int puts(const char*);\nint main() { puts("1"); }', {"language": "cpp"}
    problem |= {"tests": [{"stdin": "", "stdout": "1"}]}
    monkeypatch.setattr("prolong.verifiers.sandbox.sandbox.COMPILE", replace(COMPILE, wall_s=0.005))
    # the second, where the compiler got no processor for twenty times its limit
    with pytest.raises(VerifierFailure, match=r"harmless program|this machine is too busy"):
        judge(program, problem, "cpp")
    monkeypatch.setattr("prolong.verifiers.sandbox.sandbox.COMPILE", replace(COMPILE, cpu_s=0.005))
    assert "does not compile (timeout)" in judge(program, problem, "cpp").detail


def test_processes_that_outlive_a_killed_compiler_count_with_their_cpu_time(box: Sandbox, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("prolong.verifiers.sandbox.sandbox.COMPILE", replace(COMPILE, wall_s=0.5))
    assert box.pid, "a launcher with a scratch folder, whatever became of the last one"
    # it reads until its memory is full, in a process of the compiler's
    result = box._compile_once(cpp_compiler(), '#include "/dev/urandom"', "c++17")
    assert (result.status, result.code) == ("timeout", -9)
    assert result.cpu_s > 0.05, "many times what the compiler's driver takes alone"


def test_a_launcher_is_not_replaced_while_it_holds_a_compiled_program(box: Sandbox, monkeypatch: pytest.MonkeyPatch):
    with box.compiled("int main() {}") as (_, run):
        # replaced before every run, its scratch folder and the program with it
        monkeypatch.setattr("prolong.verifiers.sandbox.sandbox.RECYCLE_AFTER", 1)
        before = box.pid
        assert [run(b"", Limits()).status for _ in range(3)] == ["ok"] * 3
        assert box.pid == before
    assert box.pid != before


ATTACKS_IN_C = {
    "start processes": "int bad = fork() >= 0;",
    "execute programs": 'char* none[] = {nullptr}; int bad = execve("/bin/true", none, none) == 0;',
    "open sockets": "int bad = socket(AF_INET, SOCK_STREAM, 0) >= 0;",
    "write files": 'int bad = open("/scratch/x", O_CREAT | O_WRONLY, 0644) >= 0;',
    "write files elsewhere": 'int bad = open("/tmp/x", O_CREAT | O_WRONLY, 0644) >= 0;',
    "read files": 'int bad = open("/etc/passwd", O_RDONLY) >= 0 || open("/proc/self/environ", O_RDONLY) >= 0;',
    "overwrite itself": "int bad = open(argv[0], O_WRONLY) >= 0 || unlink(argv[0]) == 0;",
    "eat memory": "long n = 0; while (void* p = malloc(1 << 20)) memset(p, 1, 1 << 20), n++; int bad = n > 1024;",
    "have an environment": "int bad = environ[0] != nullptr;",
}


def test_compiled_programs_are_contained(box: Sandbox):
    includes = "".join(
        f"#include <{name}>\n" for name in ("cstdio", "cstdlib", "cstring", "fcntl.h", "unistd.h", "sys/socket.h")
    )
    bodies = "".join(f"{{ {body} if (bad) puts({json.dumps(name)}); }}\n" for name, body in ATTACKS_IN_C.items())
    with box.compiled(f'{includes}int main(int, char** argv) {{ {bodies} puts(argv[0][0] ? "end" : ""); }}') as (compiled, run):
        assert compiled.status == "ok", compiled
        result = run(b"", Limits(cpu_s=5, wall_s=10, memory_mb=512))
    assert (result.status, result.stdout) == ("ok", b"end\n"), result


@pytest.mark.skipif("os.uname().machine != 'x86_64'")
def test_the_32_bit_door_is_walled_up(box: Sandbox):
    with box.compiled('int main() { long r = 20; asm volatile("int $0x80" : "+a"(r)); return 0; }') as (compiled, run):
        assert compiled.status == "ok"
        assert run(b"", Limits()).status == "signal"


def test_a_scorer_of_ours_runs_inside_on_text_of_others(box: Sandbox):
    assert box.call("math", "factorial", [5]).result == b"120"
    assert box.call("os", "listdir", ["/"]).status == "error"
    assert box.call("builtins", "eval", ["__import__('os').fork()"]).status == "error"


def test_a_launcher_that_dies_once_costs_nobody_anything(box: Sandbox, monkeypatch: pytest.MonkeyPatch):
    run, deaths = Sandbox._run, iter([True])

    def once_dead(self: Sandbox, *a):
        if next(deaths, False):
            psutil.Process(self.pid).kill()
        return run(self, *a)

    monkeypatch.setattr(Sandbox, "_run", once_dead)
    assert judge("print(1)", {"tests": [{"stdin": "", "stdout": "1"}]}).reward == 1.0


def test_a_failing_sandbox_is_no_verdict(monkeypatch: pytest.MonkeyPatch):
    """The worker then asks the probe, which fails too: the verdict is None, not 0."""

    def dead(self: Sandbox, *a):
        raise VerifierFailure("the launcher is gone")

    monkeypatch.setattr(Sandbox, "_run", dead)
    with pytest.raises(VerifierFailure):
        judge("print(1)", {"tests": [{"stdin": "", "stdout": "1"}]})
    with pytest.raises(VerifierFailure):
        code.CODE.probe({"tests": []})


def test_without_a_compiler_the_fault_is_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    for judged in (
        lambda: judge("int main() {}", PROBLEMS[-1]["problem"], "cpp"),
        lambda: code.CODE.probe(PROBLEMS[-1]["problem"]),
    ):
        with pytest.raises(UserError, match=r"no C\+\+ compiler"):
            judged()


def test_probes_pass_and_unsafe_verdicts_say_so(box: Sandbox, monkeypatch: pytest.MonkeyPatch):
    code.CODE.probe({"tests": []})
    code.CODE.probe({"language": "cpp", "tests": []})
    assert "unsafe_code" not in judge("print(1)", {"tests": [{"stdin": "", "stdout": "1"}]}).metrics
    monkeypatch.setattr(box, "proved", [])
    assert judge("print(1)", {"tests": [{"stdin": "", "stdout": "1"}]}).metrics["unsafe_code"] == 1.0
    assert judge("def f(:", SECRET_ANSWERS).metrics["unsafe_code"] == 1.0
