"""What the server of workers imports last, and nobody else: there it takes signals again.

It starts with signals blocked (`metarl.sim.gymnasium.workers`). Signals that arrived meanwhile were
meant for its parent and are dropped; from here on multiprocessing makes it ignore Ctrl-C.
"""

import signal

for _number in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
    _handler = signal.signal(_number, signal.SIG_IGN)  # this forgets them
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [_number])
    signal.signal(_number, _handler)
