"""The node's configuration: every mistake gets its own sentence, before anything is opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynamo.core.ring import Member
from dynamo.server.config import Address, ConfigError, Settings, load

GOOD = """
[node]
name = "n1"
client = "127.0.0.1:7001"
peer = "127.0.0.1:7101"

[cluster]
name = "shop"

[tuning]
probe_ms = 500

[[members]]
name = "n1"
client = "127.0.0.1:7001"
peer = "127.0.0.1:7101"

[[members]]
name = "n2"
client = "127.0.0.1:7002"
peer = "127.0.0.1:7102"
zone = "east"
weight = 2
"""


def settings(tmp_path: Path, text: str = GOOD, **environ: str) -> Settings:
    file = tmp_path / "node.toml"
    file.write_text(text)
    return load(file, environ)


def refusal(tmp_path: Path, text: str = GOOD, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text, **environ)
    return str(caught.value)


def test_a_good_file_gives_settings_with_paths_beside_it(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert found.name == "n1"
    assert found.client == Address("127.0.0.1", 7001)
    assert found.data_dir == tmp_path / "n1"
    assert found.durability == "fsync"
    assert found.config.probe_ms == 500
    assert found.members[1] == Member("n2", "127.0.0.1", 7002, 7102, "east", 2)
    assert found.label.startswith("shop/")
    assert "1024 partitions" in found.label


def test_the_environment_beats_the_file(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        DYNAMO_NODE_DURABILITY="memory",
        DYNAMO_NODE_FAULTS="true",
        DYNAMO_NODE_DATA_DIR="elsewhere/n1",
        DYNAMO_CLUSTER_PARTITIONS="64",
        DYNAMO_TUNING_PROBE_MS="700",
        DYNAMO_URL="dynamo://127.0.0.1:9",  # the client's, and no concern of a node
    )
    assert found.durability == "memory"
    assert found.faults
    assert found.data_dir == tmp_path / "elsewhere" / "n1"
    assert (found.config.partitions, found.config.probe_ms) == (64, 700)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('name = "shop"', 'naem = "shop"', "unknown key in [cluster] 'naem'; did you mean 'name'?"),
        ("probe_ms", "prob_ms", "unknown key in [tuning] 'prob_ms'; did you mean 'probe_ms'?"),
        ("zone =", "zones =", "unknown key in [[members]] 'zones'; did you mean 'zone'?"),
        ("[tuning]", "[tunning]", "unknown section 'tunning'; did you mean 'tuning'?"),
        ("probe_ms = 500", 'probe_ms = "5"', "tuning.probe_ms must be a whole number, not '5'"),
        ("probe_ms = 500", "probe_ms = 0.5", "tuning.probe_ms must be a whole number, not 0.5"),
        ("probe_ms = 500", "probe_ms = true", "tuning.probe_ms must be a whole number, not True"),
        ("probe_ms = 500", "probe_ms = 0", "probe_ms must be at least 1, not 0"),
        ('name = "shop"', "partitions = 100", "partitions must be a power of two up to 65536"),
        ('name = "shop"', "w = 4", "w=4 can never be met with n=3: choose 1 to 3"),
        ('name = "shop"', "w = 3", "w=3 can never be met by 2 members: choose 1 to 2"),
        ('name = "shop"', 'name = "a b"', "cluster.name must be 1 to 64 letters, digits"),
        ("weight = 2", "weight = 0", "weight of member n2 must be at least 1"),
        ("weight = 2", 'weight = "2"', "members[2].weight must be a whole number, not '2'"),
        ('peer = "127.0.0.1:7102"', "", "members[2] lacks 'peer'"),
        ("127.0.0.1:7102", "127.0.0.1:7101", "both claim 127.0.0.1:7101"),
        ("127.0.0.1:7102", "127.0.0.2:7102", "must be on the same host"),
        ("127.0.0.1:7002", "7002", "must be host:port, such as 127.0.0.1:7001, not '7002'"),
        ("127.0.0.1:7002", "127.0.0.1:70000", "needs a port from 1 to 65535, not 70000"),
        ("127.0.0.1:7002", "10.0.0.2:7002", "is not an IPv4 loopback address"),
        ("127.0.0.1:7002", "0.0.0.0:7002", "listens on 127.0.0.1 only"),
        ('name = "n2"', 'name = "n1"', "both claim n1"),
        ("[cluster]", 'durability = "sync"\n[cluster]', "must be one of fsync, interval, memory"),
        ("[cluster]", 'log = "xml"\n[cluster]', "node.log must be one of text, json, not 'xml'"),
        ("[cluster]", "interval_ms = 0\n[cluster]", "node.interval_ms must be at least 1, not 0"),
        ("[cluster]", "faults = 1\n[cluster]", "node.faults must be true or false, not 1"),
        ("[cluster]", "[cluster", "is not TOML"),
    ],
)
def test_each_mistake_gets_a_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in GOOD
    assert sentence in refusal(tmp_path, GOOD.replace(old, new))


def test_the_own_name_must_be_a_member_at_the_same_addresses(tmp_path: Path) -> None:
    other = GOOD.replace('[node]\nname = "n1"', '[node]\nname = "n3"')
    assert refusal(tmp_path, other) == "unknown member in node.name 'n3'; known: n1, n2."
    assert "node.name is missing" in refusal(tmp_path, GOOD.replace('name = "n1"', "", 1))
    moved = GOOD.replace("127.0.0.1:7101", "127.0.0.1:7109", 1)
    assert "[[members]] says 127.0.0.1:7101 for n1" in refusal(tmp_path, moved)
    alone = GOOD[: GOOD.index("[[members]]")]
    assert "no [[members]] and no seeds: list every node of a new ring" in refusal(tmp_path, alone)


# --- A node that is to join -------------------------------------------------------------------

JOINER = """
[node]
name = "n3"
client = "127.0.0.1:7003"
peer = "127.0.0.1:7103"
zone = "west"

[cluster]
name = "shop"
seeds = ["127.0.0.1:7101", "localhost:7102", "127.0.0.1:7103"]
w = 3
"""


def with_secret(tmp_path: Path) -> None:
    if not (tmp_path / "cluster.secret").exists():
        settings(tmp_path)


def test_a_joiner_knows_seeds_and_founds_nothing(tmp_path: Path) -> None:
    with_secret(tmp_path)
    found = settings(tmp_path, JOINER)
    assert found.members == []
    assert found.seeds == ["127.0.0.1:7101", "127.0.0.1:7102"]  # itself is none
    assert found.me == Member("n3", "127.0.0.1", 7003, 7103, "west")
    assert found.cluster == settings(tmp_path).cluster


def test_the_seeds_of_a_founder_are_the_others_that_it_lists(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert found.me is found.members[0]
    assert found.seeds == ["127.0.0.1:7102"]


def test_seeds_on_the_command_line_and_in_the_environment_beat_the_file(tmp_path: Path) -> None:
    with_secret(tmp_path)
    found = settings(tmp_path, JOINER, DYNAMO_CLUSTER_SEEDS="127.0.0.1:7105, 127.0.0.1:7106")
    assert found.seeds == ["127.0.0.1:7105", "127.0.0.1:7106"]
    assert load(tmp_path / "node.toml", {}, join=["127.0.0.1:7107"]).seeds == ["127.0.0.1:7107"]
    bare = JOINER.replace("seeds =", "# seeds =")
    (tmp_path / "node.toml").write_text(bare)
    assert load(tmp_path / "node.toml", {}, join=["127.0.0.1:7107"]).members == []


def test_a_joiner_never_makes_a_secret_of_its_own(tmp_path: Path) -> None:
    """It would be another ring's, and nobody would ever understand a frame of it."""
    wrong = refusal(tmp_path, JOINER)
    assert f"there is no secret file {tmp_path}/cluster.secret: copy the one of a node" in wrong
    assert not (tmp_path / "cluster.secret").exists()
    assert load(tmp_path / "node.toml", {}, make=False).cluster.secret == b""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("w = 3", "w = 4", "w=4 can never be met with n=3: choose 1 to 3"),
        ("127.0.0.1:7101", "127.0.0.1", "a seed must be host:port, such as"),
        ("127.0.0.1:7101", "10.0.0.1:7101", "a seed='10.0.0.1:7101' is not an IPv4 loopback"),
        ('"127.0.0.1:7101", "localhost:7102", ', "", "the only seed is this node itself"),
        ('["127.0.0.1:7101", "localhost:7102", "127.0.0.1:7103"]', '"127.0.0.1:7101"',
         'cluster.seeds must be a list, such as ["127.0.0.1:7101"], not \'127.0.0.1:7101\''),
        ('"127.0.0.1:7103"\nzone', '"127.0.0.1:7003"\nzone', "two ports of the same host"),
    ],
)  # fmt: skip
def test_each_mistake_of_a_joiner_gets_a_sentence(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    assert old in JOINER
    assert sentence in refusal(tmp_path, JOINER.replace(old, new))


def test_members_and_seeds_do_not_go_together(tmp_path: Path) -> None:
    both = GOOD.replace("[tuning]", 'seeds = ["127.0.0.1:7109"]\n[tuning]')
    assert "both [[members]] and seeds: a node either founds a new ring" in refusal(tmp_path, both)
    (tmp_path / "node.toml").write_text(GOOD)
    with pytest.raises(ConfigError, match="both"):
        load(tmp_path / "node.toml", {}, join=["127.0.0.1:7109"])


def test_the_zone_of_a_founder_stands_in_the_list(tmp_path: Path) -> None:
    other = GOOD.replace("[cluster]", 'zone = "west"\n[cluster]')
    assert "node.zone is 'west', but [[members]] says '' for n1" in refusal(tmp_path, other)
    same = GOOD.replace('7101"\n\n[[', '7101"\nzone = "west"\n\n[[').replace(
        "[cluster]", 'zone = "west"\n[cluster]'
    )
    assert settings(tmp_path, same).me.zone == "west"


def test_mistakes_in_the_environment_are_named_by_their_variable(tmp_path: Path) -> None:
    wrong = refusal(tmp_path, DYNAMO_NODE_DURABILTY="fsync")
    assert "'DYNAMO_NODE_DURABILTY'; did you mean 'DYNAMO_NODE_DURABILITY'?" in wrong
    wrong = refusal(tmp_path, DYNAMO_TUNING_PROBE_MS="soon")
    assert wrong == "DYNAMO_TUNING_PROBE_MS must be a whole number, not 'soon'"
    wrong = refusal(tmp_path, DYNAMO_NODE_FAULTS="yes")
    assert wrong == "DYNAMO_NODE_FAULTS must be true or false, not 'yes'"
    assert "loopback" in refusal(tmp_path, DYNAMO_NODE_CLIENT="0.0.0.0:7001")


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load(tmp_path / "none.toml", {})
    (tmp_path / "raw.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(tmp_path / "raw.toml", {})


# --- The secret -------------------------------------------------------------------------------


def test_the_first_node_makes_the_secret_and_all_share_it(tmp_path: Path) -> None:
    first = settings(tmp_path)
    file = tmp_path / "cluster.secret"
    assert file.stat().st_mode & 0o777 == 0o600
    again = settings(tmp_path)
    assert again.cluster == first.cluster
    assert len(first.cluster.tag) == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cluster.secret", "node.toml"]
    file.unlink()
    other = settings(tmp_path)
    assert other.cluster.tag != first.cluster.tag
    assert other.label != first.label


def test_the_secret_is_in_no_repr(tmp_path: Path) -> None:
    found = settings(tmp_path)
    shown = repr(found) + str(found) + repr(found.cluster) + str(found.cluster)
    assert repr(found.cluster.secret)[2:-1] not in shown
    assert found.cluster.secret.hex() not in shown


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    settings(tmp_path)
    os.chmod(tmp_path / "cluster.secret", 0o640)
    assert "run chmod 600" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"id": "x", "secret": "00"}', '{"id": 5}'])
def test_what_is_not_a_secret_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cluster.secret"
    file.write_text(text)
    file.chmod(0o600)
    assert "is not a secret file: copy the one of another member" in refusal(tmp_path)


def test_a_secret_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    text = GOOD.replace('name = "shop"', 'secret_file = "no/such/place"')
    assert "cannot create the secret file" in refusal(tmp_path, text)
