"""What an order costs: ``python -m tests.bench.issuing``. Against pebble on loopback.

CPU is our process's, with the small web server that answers the challenges.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
import uuid

from tests.interop.acme import Ordering, authority
from tests.support.challenges import ChallengeAnswers
from tests.support.pebble import Pebble
from tls.wanted import KeyType, Wanted

ROUNDS = 20

IMPORTING = """
import time
from tls.acme import authority
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
before, begun = resident(), time.process_time()
from tls.acme import accounts, client, orders
print(time.process_time() - begun, resident() - before)
"""


def names(count: int) -> tuple[str, ...]:
    unique = uuid.uuid4().hex[:8]
    return tuple(f"n{number}.{unique}.example.test" for number in range(count))


async def orders(ca: Pebble, answers: ChallengeAnswers, key_type: KeyType, count: int, rounds: int) -> str:
    # past the stub, whose thread would be counted
    acme = authority(ca, directory=ca.direct_directory)
    account = await acme.account(None)
    wall, cpu = [], []
    for _ in range(rounds):
        wanted = Wanted(names(count), key_type)
        begun, used = time.perf_counter(), time.process_time()
        await acme.issue(account, wanted, Ordering(wanted, answers).steps())
        wall.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - used)
    return (
        f"{key_type.value:11} {count:4} names: median {statistics.median(wall):.2f} s, "
        f"longest {max(wall):.2f} s, CPU {statistics.median(cpu) * 1000:.0f} ms"
    )


async def main() -> None:
    imported = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True, check=True)
    cpu, kilobytes = imported.stdout.split()
    print(f"importing the library: {float(cpu) * 1000:.0f} ms CPU, {int(kilobytes) / 1024:.0f} MB")
    with Pebble() as ca, ChallengeAnswers(ca.options.ip, ca.options.http_port) as answers:
        print(await orders(ca, answers, KeyType.P256, 1, ROUNDS))
        print(await orders(ca, answers, KeyType.P384, 1, ROUNDS))
        print(await orders(ca, answers, KeyType.RSA2048, 1, ROUNDS))
        print(await orders(ca, answers, KeyType.P256, 10, 5))
        print(await orders(ca, answers, KeyType.P256, 100, 2))


if __name__ == "__main__":
    asyncio.run(main())
