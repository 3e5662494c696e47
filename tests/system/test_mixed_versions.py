"""A deploy: an instance of the previous version and one of this version, on one database and one queue per room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from testbed import previous_version
from testbed.client import ChatClient, Frame, kind
from testbed.cluster import Cluster
from testbed.daemon import Daemon
from testbed.postgres import migrate
from testbed.threads import run_together

_EACH = 150


class Mixed(Cluster):
    """Begins with an instance of the previous version, on that one's schema; all others are of this version."""

    def __init__(self, tree: Path, database_url: str) -> None:
        super().__init__("--long-poll-seconds", "1", instances=1, rooms=2, data_directory=tree)
        self._tree = tree
        self._url = database_url
        self._old_environment = previous_version.unpack(tree)

    @property
    def database_url(self) -> str:
        return self._url

    def start_database(self) -> None:
        """It is there already."""

    def admin(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        if arguments == ("migrate",) and not self.instances:
            migrate(self.database_url, self._tree / "sql")
            return ""
        return super().admin(*arguments, environment=environment)

    def configure(self, instance: Daemon, options: Sequence[str], environment: Mapping[str, str]) -> None:
        is_old = instance is self.instances[0]
        super().configure(instance, options, {**environment, **(self._old_environment if is_old else {})})


@pytest.fixture
def cluster(tmp_path: Path, empty_database_url: str) -> Iterator[Cluster]:
    if why_not := previous_version.why_not():
        pytest.skip(why_not)
    with Mixed(tmp_path, empty_database_url) as cluster:
        yield cluster.start()


def hear(client: ChatClient, frames: list[Frame], last: str) -> list[tuple[int, str, str]]:
    """What was broadcast to a client, up to the message ``last``: seq, id, text. :param frames: that came until now."""
    heard = [frame for frame in frames if kind(frame) == "broadcast"]
    while not heard or heard[-1]["message"] != last:
        heard.append(client.receive_kind("broadcast"))
    return [(frame["seq"], frame["messageId"], frame["message"]) for frame in heard]


def test_both_versions_at_once_give_everybody_the_same_messages_in_one_order(cluster: Cluster) -> None:
    (old,) = cluster.instances
    with ChatClient(old.chat_url(1)) as first:
        begun = first.talk(["before the migration"])
        cluster.admin("migrate")
        begun += first.talk(["behind it"])
        (new,) = cluster.add()
        with ChatClient(new.chat_url(1) + "?since=0") as second:
            clients = {"old": first, "new": second}
            texts = {name: [f"{name} {number}" for number in range(_EACH)] for name in clients}
            frames = run_together([partial(client.talk, texts[name]) for name, client in clients.items()])
            frames[0] = [*begun, *frames[0]]
            frames[1] += second.talk(["the end"])
            heard = [hear(client, each, "the end") for client, each in zip(clients.values(), frames, strict=True)]
            assert heard[0] == heard[1]
            assert [seq for seq, _, _ in heard[0]] == list(range(1, 2 * _EACH + 4))
            acknowledged = [frame["messageId"] for each in frames for frame in each if kind(frame) == "ack"]
            assert sorted(acknowledged) == sorted(message_id for _, message_id, _ in heard[0])
            for name, said in texts.items():
                assert [text for _, _, text in heard[0] if text in said] == said, f"what {name} said is in its order"
            stored = "SELECT seq, message_id::text, message_text FROM messages WHERE room_id = 1 ORDER BY seq"
            assert cluster.sql(stored) == heard[0]

            # The old one goes; what waits in its queues is the other's.
            assert cluster.terminate(0) == 0
            assert hear(second, second.talk(["alone"]), "alone")[0][0] == 2 * _EACH + 4
    assert cluster.terminate(1) == 0
    assert all("Traceback" not in instance.output() for instance in cluster.instances)
