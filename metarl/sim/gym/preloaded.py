"""What the server of workers imports last, and nobody else: there it takes signals again.

It starts without (`metarl.sim.gym.workers`). Those that came meanwhile were for its parent and are
forgotten; from here on multiprocessing has it ignore Ctrl-C.
"""

import signal

for _number in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
    _handler = signal.signal(_number, signal.SIG_IGN)  # this forgets them
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [_number])
    signal.signal(_number, _handler)
