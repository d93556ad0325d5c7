"""Processes that build batches, and the signals they are not to hear."""

import os
import signal
import threading
from multiprocessing import parent_process

# Ctrl-C, and what queues send before they take a machine away.
OF_THE_RUN = ("SIGINT", "SIGUSR1", "SIGUSR2")


def leave_signals_to_the_run(worker: int) -> None:
    """For `DataLoader(worker_init_fn=...)`. A terminal, torchrun or SLURM signals every process of a run: it is to finish its step and save
    first, and needs batches until then.

    SIGTERM ends a worker only where the run itself has sent it; macOS does not tell who has, so there it always does.
    """
    for name in OF_THE_RUN:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        # Threads to come have it blocked as well.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_to_by_the_run, daemon=True).start()


def _end_when_told_to_by_the_run() -> None:
    run = parent_process()
    while run is not None:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == run.pid:
            os._exit(0)
