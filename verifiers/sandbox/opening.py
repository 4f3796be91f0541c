"""Opening a sandbox: the first backend that passes its self-test, or a refusal that says what to install.

open_sandbox --> for each backend: Sandbox --prove (selftest.py)--> opened
"""

from __future__ import annotations

import atexit

from ...common.errors import UserError, VerifierFailure
from .sandbox import BUBBLEWRAP, JAIL, UNSAFE, Backend, Sandbox
from .selftest import prove


def open_sandbox(
    *,
    preload: tuple[str, ...] = (),
    backends: tuple[Backend, ...] = (BUBBLEWRAP, JAIL),
    allow_unsafe: bool = False,
) -> Sandbox:
    """Open the first backend that passes its self-test. Blocks for a few seconds.

    preload: modules for `Sandbox.call`, imported once. allow_unsafe: where no backend passes, go on with the layers that this
    kernel has, down to none. Raises UserError, with what failed and what to install, where none passes and that is False.
    """
    failures = []
    for backend in backends:
        sandbox = Sandbox(backend, preload)
        try:
            sandbox.mark_proved(prove(sandbox))
            return sandbox
        except (OSError, UserError, VerifierFailure) as error:
            sandbox.close()
            failures.append(f"{backend.name}: {error}")
    if allow_unsafe:
        return Sandbox(UNSAFE, preload)
    raise UserError(
        f"no sandbox for untrusted code on this machine ({'; '.join(failures)}). Install bubblewrap (Debian: "
        f"`apt-get install bubblewrap`) where user namespaces are allowed, or use Linux 5.13 or later with Landlock "
        f"and seccomp; or run such code unprotected with verifiers.allow_unsafe_code=true, which marks every verdict"
    )


def open_for_process(*, preload: tuple[str, ...] = (), allow_unsafe: bool = False) -> Sandbox:
    """A sandbox that is closed at the end of this process. Raises UserError as `open_sandbox` does."""
    sandbox = open_sandbox(preload=preload, allow_unsafe=allow_unsafe)
    atexit.register(sandbox.close)
    return sandbox
