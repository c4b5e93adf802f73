"""Unblocks signals in the forkserver of the workers, which imports this module last.

`metarl.sim.gymnasium.workers` starts the server with signals blocked. Signals that arrived until
then were meant for the parent process; they are dropped. From here on multiprocessing makes the
server ignore Ctrl-C.
"""

import signal

for _number in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
    _handler = signal.signal(_number, signal.SIG_IGN)  # drops pending signals
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [_number])
    signal.signal(_number, _handler)
