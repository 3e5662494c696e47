"""The option table: sources and their order, errors, help; by a table of its own, so that real options may change."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chatflow
from chatflow.errors import ConfigError
from chatflow.options import (
    Choice,
    CommandLine,
    Flag,
    Integer,
    Kind,
    Number,
    Option,
    Setting,
    Table,
    Text,
    Url,
    mask_password,
)
from chatflow.options import load as load_table
from chatflow.options.manual import as_config, as_help, as_page

_POSTGRES = Url(schemes=("postgresql",), words=("embedded",), example="postgresql://u:p@host/db", needs_host=False)
_BELL = Url(schemes=("ws",), example="ws://host/")

TABLE = Table(
    name="tea",
    siblings=("tea-party", "kitchen"),
    summary="Makes tea.",
    examples=(("Make tea", "twistd -n tea"),),
    own_options=(
        Option(name="cups", kind=Integer(1, 12), default=4, group="Drinking", help="How many cups."),
        Option(name="steep-seconds", kind=Number(0, 600, "seconds"), default=180.0, group="Making", help="How long."),
        Option(name="leaf", kind=Choice(("black", "green")), default="black", group="Making", help="Which tea."),
        Option(name="milk", kind=Flag(), default=False, group="Drinking", help="Whether with milk."),
        Option(name="guests", kind=Text(), default=(), repeatable=True, group="Drinking", help="Who drinks it."),
        Option(name="store", kind=_POSTGRES, default="embedded", group="Making", help="Where it is kept."),
        Option(name="bell", kind=_BELL, default="ws://bell/", group="Making", help="What rings."),
        Option(
            name="host",
            kind=Text(),
            default=lambda: "found",
            default_text="whoever is there",
            group="Drinking",
            help="Who pours.",
        ),
    ),
)


def no_file(path: str) -> str:
    raise AssertionError(f"{path} was read")


def load(
    argv: Mapping[str, list[str]] | None = None,
    environ: Mapping[str, str] | None = None,
    read_file: Callable[[str], str] = no_file,
    table: Table = TABLE,
) -> dict[str, Setting]:
    return load_table(table, argv or {}, environ or {}, read_file)


def load_ini(text: str) -> dict[str, Setting]:
    return load(argv={"config": ["tea.ini"]}, read_file=lambda path: text)


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ini_refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_ini(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestSources:
    def test_without_any_source_every_option_has_its_default(self) -> None:
        settings = load()
        assert settings["cups"] == Setting(4, "default")
        assert settings["host"] == Setting("found", "default")
        assert set(settings) == {option.name for option in TABLE.options}

    def test_the_command_line_beats_the_environment_that_the_file_and_that_the_default(self) -> None:
        sources: dict[str, Any] = {"argv": {"config": ["tea.ini"]}, "read_file": lambda path: "[tea]\ncups = 2\n"}
        assert load(**sources)["cups"] == Setting(2, "file tea.ini")
        sources["environ"] = {"TEA_CUPS": "3"}
        assert load(**sources)["cups"] == Setting(3, "environment variable TEA_CUPS")
        sources["argv"] |= {"cups": ["5"]}
        assert load(**sources)["cups"] == Setting(5, "command line")

    def test_the_file_may_be_named_in_the_environment_and_the_command_line_wins(self) -> None:
        files = {"a": "[tea]\ncups = 1", "b": "[tea]\ncups = 2"}
        assert load(environ={"TEA_CONFIG": "a"}, read_file=files.__getitem__)["cups"].value == 1
        by_both = load(argv={"config": ["b"]}, environ={"TEA_CONFIG": "a"}, read_file=files.__getitem__)
        assert by_both["cups"].value == 2

    def test_of_several_on_the_command_line_the_last_counts(self) -> None:
        assert load(argv={"cups": ["1", "7"]})["cups"].value == 7

    def test_a_repeatable_option_has_all_of_the_strongest_source_only(self) -> None:
        settings = load(argv={"guests": ["Ann", "Bob, Esq."]}, environ={"TEA_GUESTS": "Eve"})
        assert settings["guests"].value == ("Ann", "Bob, Esq.")

    def test_a_repeatable_option_is_separated_by_commas_or_lines_elsewhere(self) -> None:
        assert load(environ={"TEA_GUESTS": "Ann, Bob\nEve,"})["guests"].value == ("Ann", "Bob", "Eve")
        assert load_ini("[tea]\nguests =\n  Ann\n  Bob\ncups = 2")["guests"].value == ("Ann", "Bob")

    def test_a_wrong_value_that_is_overridden_does_not_matter(self) -> None:
        assert load(argv={"cups": ["5"]}, environ={"TEA_CUPS": "many"})["cups"].value == 5

    def test_a_percent_sign_in_the_file_is_itself(self) -> None:
        assert load_ini("[tea]\nstore = postgresql://u:%2F@h/db")["store"].value == "postgresql://u:%2F@h/db"

    def test_a_file_without_our_section_says_nothing(self) -> None:
        assert load_ini("# empty\n")["cups"].source == "default"


class TestNeighbours:
    def test_variables_and_sections_of_siblings_are_not_looked_at(self) -> None:
        load(environ={"TEA_PARTY_CUPS": "x", "TEA_PARTY_FOO": "x", "KITCHEN_X": "y", "HOME": "/"})
        load_ini("[tea-party]\nnonsense = 1\n[kitchen]\na = 1\n[tea]\ncups = 1")

    def test_the_sibling_with_the_longer_prefix_owns_its_variables_and_only_those(self) -> None:
        party = Table(
            name="tea-party",
            siblings=("tea",),
            own_options=(Option(name="cups", kind=Integer(1, 99), default=50, group="All", help="Cups."),),
        )
        assert load(table=party, environ={"TEA_PARTY_CUPS": "60", "TEA_FOO": "x"})["cups"].value == 60
        assert "TEA_PARTY_CUPS" in refusal(table=party, environ={"TEA_PARTY_CUPZ": "60"})

    def test_what_kubernetes_sets_for_a_service_of_the_same_name_is_ignored(self) -> None:
        load(
            environ={
                "TEA_SERVICE_HOST": "10.0.0.11",
                "TEA_SERVICE_PORT": "8080",
                "TEA_SERVICE_PORT_HTTP": "8080",
                "TEA_PORT": "tcp://10.0.0.11:8080",
                "TEA_PORT_8080_TCP": "tcp://10.0.0.11:8080",
                "TEA_PORT_8080_TCP_PROTO": "tcp",
                "TEA_PORT_8080_TCP_PORT": "8080",
                "TEA_PORT_8080_TCP_ADDR": "10.0.0.11",
            }
        )

    def test_a_port_that_a_person_wrote_is_not_ignored(self) -> None:
        assert "TEA_PORT" in refusal(environ={"TEA_PORT": "8080"})


class TestErrors:
    """Each names the key, the source and what is allowed, on one line."""

    def test_a_wrong_value_is_refused_with_its_option_and_source(self) -> None:
        allowed = "must be a whole number from 1 to 12"
        assert refusal({"cups": ["0"]}) == f"cups = '0' (command line): {allowed}"
        assert refusal(environ={"TEA_CUPS": "x\ny"}) == rf"cups = 'x\ny' (environment variable TEA_CUPS): {allowed}"
        assert ini_refusal("[tea]\ncups = 13") == f"cups = '13' (file tea.ini): {allowed}"

    def test_a_long_value_is_cut(self) -> None:
        assert len(refusal({"cups": ["9" * 5000]})) < 200

    def test_each_item_of_a_repeatable_option_is_judged(self) -> None:
        assert "guests = '\\x07'" in refusal({"guests": ["Ann", "\x07"]})

    def test_an_unknown_variable_with_the_nearest_known_one(self) -> None:
        assert refusal(environ={"TEA_CUPZ": "1"}) == "unknown environment variable TEA_CUPZ: did you mean TEA_CUPS?"

    def test_an_unknown_name_near_to_none_with_all_known_ones(self) -> None:
        line = refusal(environ={"TEA_XYZZY": "1"})
        assert line.startswith("unknown environment variable TEA_XYZZY: known are TEA_CUPS, TEA_STEEP_SECONDS, ")

    def test_an_unknown_key_in_the_file_is_refused(self) -> None:
        assert ini_refusal("[tea]\ncup = 1") == "unknown key cup (file tea.ini): did you mean cups?"

    def test_an_unknown_section_in_the_file_is_refused(self) -> None:
        assert ini_refusal("[teas]\ncups = 1") == "unknown section [teas] (file tea.ini): did you mean [tea]?"
        assert "[DEFAULT]" in ini_refusal("[DEFAULT]\ncups = 1\n[tea]\n")

    @pytest.mark.parametrize("key", ["config", "show-config"])
    def test_a_file_cannot_hold_what_is_about_files(self, key: str) -> None:
        assert f"unknown key {key}" in ini_refusal(f"[tea]\n{key} = yes")

    def test_show_config_is_for_the_command_line_only(self) -> None:
        assert "unknown environment variable TEA_SHOW_CONFIG" in refusal(environ={"TEA_SHOW_CONFIG": "yes"})

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("cups = 1", "file tea.ini, line 1: the section [tea] must come first"),
            ("[tea]\ncups 1", "file tea.ini, line 2: must be 'key = value'"),
            ("[tea]\ncups = 1\ncups = 2", "file tea.ini, line 3: the key cups is there twice"),
            ("[tea]\n[tea]", "file tea.ini, line 2: the section [tea] is there twice"),
        ],
    )
    def test_a_file_that_is_no_ini_file(self, text: str, said: str) -> None:
        assert ini_refusal(text) == said

    def test_a_broken_line_of_the_file_is_not_repeated_since_it_may_be_a_secret(self) -> None:
        assert "hunter2" not in ini_refusal("[tea]\nhunter2")
        assert "hunter2" not in ini_refusal("hunter2")

    @pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), OSError("odd"), UnicodeError("x")])
    def test_a_file_that_cannot_be_read(self, error: Exception) -> None:
        def read(path: str) -> str:
            raise error

        line = refusal(environ={"TEA_CONFIG": "tea.ini"}, read_file=read)
        assert line.startswith("config (environment variable TEA_CONFIG): ")
        assert "file tea.ini" in line

    def test_the_value_of_a_secret_is_never_repeated(self) -> None:
        for url in (
            "postgresql://ann:hunter2/@h/db",
            "http://ann:hunter2@h",
            "postgresql:ann:hunter2@h",
            "postgresql://h/db?password=hunter2#",
            "postgresql://ann:hunter2@[h/db",
            "postgresql://ann:hünter2@h/db?hunter2",
        ):
            assert "hunter2" not in refusal({"store": [url]}), url
        assert "hunter2" not in refusal({"bell": ["ws://ann:hunter2/@h/"]})


def allowed(kind: Kind, text: str) -> bool:
    try:
        kind.parse(text)
    except ValueError:
        return False
    return True


class TestKinds:
    @pytest.mark.parametrize("text", ["", "x", "0", "13", "1.0", "1_0", " 1", "+1", "１", "0x1", "9" * 400, "1\n"])
    def test_integers_that_are_refused(self, text: str) -> None:
        assert not allowed(Integer(1, 12), text)

    @pytest.mark.parametrize("text", ["", "x", "-0.1", "10.1", "nan", "inf", "1e1", "1_0", ".5", "1.", "1\n"])
    def test_numbers_that_are_refused(self, text: str) -> None:
        assert not allowed(Number(0, 10), text)

    def test_limits_belong_to_the_range(self) -> None:
        assert [Integer(-1, 12).parse(text) for text in ("-1", "12", "007")] == [-1, 12, 7]
        assert [Number(0, 10).parse(text) for text in ("0", "10", "0.25")] == [0.0, 10.0, 0.25]

    @pytest.mark.parametrize(
        ("text", "value"), [("yes", True), ("TRUE", True), ("1", True), ("Off", False), ("no", False)]
    )
    def test_flags_are_read_in_every_usual_spelling(self, text: str, value: bool) -> None:
        assert Flag().parse(text) is value

    @pytest.mark.parametrize("text", ["", "2", "y", "enabled"])
    def test_flags_that_are_refused(self, text: str) -> None:
        assert not allowed(Flag(), text)

    def test_a_text_matches_as_a_whole(self) -> None:
        assert allowed(Text("letters", "[a-z]+"), "abc")
        assert not allowed(Text("letters", "[a-z]+"), "abc\n")

    @pytest.mark.parametrize("text", ["", "a\nb", "a\x00", "\ud800"])
    def test_plain_text_is_one_printable_line(self, text: str) -> None:
        assert not allowed(Text(), text)

    @pytest.mark.parametrize(
        "text",
        [
            "embedded",
            "postgresql:///chat?host=/run/postgresql",
            "postgresql://a:1,b:2/chat?target_session_attrs=read-write",
            "postgresql://ann:p%40ss@[::1]:5432/chat?sslmode=verify-full",
        ],
    )
    def test_urls_that_libpq_takes(self, text: str) -> None:
        assert _POSTGRES.parse(text) == text

    @pytest.mark.parametrize(
        "text",
        ["ws://", "ws:host", "http://host", "ws://host:99999", "ws://host:x", "ws://host:0", "ws://[::1", "ws://a b"],
    )
    def test_urls_that_are_refused(self, text: str) -> None:
        assert not allowed(Url(schemes=("ws",), example="ws://host/"), text)

    @given(st.text())
    def test_parsing_fails_with_nothing_but_value_error(self, text: str) -> None:
        for option in TABLE.options:
            allowed(option.kind, text)

    @given(st.sampled_from(TABLE.options), st.text())
    def test_what_is_shown_can_be_read_again(self, option: Option, text: str) -> None:
        if not isinstance(option.kind, Url) and allowed(option.kind, text):
            value = option.kind.parse(text)
            assert option.kind.parse(option.kind.show(value)) == value


class TestMaskPassword:
    @pytest.mark.parametrize(
        ("url", "masked"),
        [
            ("embedded", "embedded"),
            ("postgresql://ann:secret@h:5432/db", "postgresql://ann:***@h:5432/db"),
            ("postgresql://ann@h:5432/db", "postgresql://ann@h:5432/db"),
            ("postgresql://h:5432/db", "postgresql://h:5432/db"),
            ("postgresql://ann:se:cret@h/db", "postgresql://ann:***@h/db"),
            ("postgresql://ann:s%40x@a:1,b:2/db", "postgresql://ann:***@a:1,b:2/db"),
            ("postgresql://h/db?password=secret&sslmode=require", "postgresql://h/db?password=***&sslmode=require"),
            ("postgresql://h/db?a=b&PASSWORD=secret", "postgresql://h/db?a=b&PASSWORD=***"),
            ("postgresql://h/db?sslpassword=secret", "postgresql://h/db?sslpassword=***"),
        ],
    )
    def test_the_password_alone_is_hidden(self, url: str, masked: str) -> None:
        assert mask_password(url) == masked

    @given(st.from_regex(r"postgresql://ann:[!-~]{0,3}hunter2[!-~]{0,3}@h/db", fullmatch=True))
    def test_no_url_that_is_accepted_shows_its_password(self, url: str) -> None:
        if allowed(_POSTGRES, url):
            assert "hunter2" not in mask_password(url)


class Options(CommandLine):
    table = TABLE

    @staticmethod
    def build(settings: Mapping[str, Setting]) -> dict[str, Any]:
        if settings["cups"].value == 11:
            raise ConfigError("cups: eleven is\nunlucky")
        return {name: setting.value for name, setting in settings.items()}


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def no_settings_of_the_caller(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in os.environ:
            if name.startswith("TEA_"):
                monkeypatch.delenv(name)

    def config(self, *arguments: str) -> dict[str, Any]:
        options = Options()
        options.parseOptions(arguments)
        config: dict[str, Any] = options.config
        return config

    def ends(self, *arguments: str) -> int:
        with pytest.raises(SystemExit) as caught:
            self.config(*arguments)
        assert isinstance(caught.value.code, int)
        return caught.value.code

    def test_values_flags_and_repeated_options_are_read_from_the_command_line(self) -> None:
        config = self.config("--cups=3", "--milk", "--guests", "Ann", "--guests", "Bob")
        assert (config["cups"], config["milk"], config["guests"]) == (3, True, ("Ann", "Bob"))

    def test_no_undoes_a_flag_of_a_weaker_source(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TEA_MILK", "yes")
        assert self.config()["milk"] is True
        assert self.config("--no-milk")["milk"] is False

    def test_the_file_is_read_with_or_without_a_byte_order_mark(self, tmp_path: Path) -> None:
        for mark in ("", "\ufeff"):
            (tmp_path / "tea.ini").write_text(f"{mark}[tea]\nguests = Zoë\n", encoding="utf-8")
            assert self.config("--config", str(tmp_path / "tea.ini"))["guests"] == ("Zoë",)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--cupz=3"], "unknown option --cupz (command line): did you mean --cups?"),
            (["-z"], "unknown option -z (command line): known are --cups, --steep-seconds, "),
            (["--cups"], "cups (command line): a value is missing; must be a whole number from 1 to 12"),
            (["--milk=yes"], "milk (command line): takes no value"),
            (["coffee"], "unexpected argument 'coffee' (command line)"),
            (["--cups=0"], "cups = '0' (command line): must be a whole number from 1 to 12"),
            (["--cups=11"], "cups: eleven is unlucky"),
            (["--a\nb"], "unknown option --a b (command line)"),
            (
                ["--config=/nonexistent/tea.ini"],
                "config (command line): cannot read file /nonexistent/tea.ini: No such",
            ),
            (["--config=/"], "config (command line): cannot read file /: Is a directory"),
        ],
    )
    def test_an_error_is_one_line_on_stderr_and_status_1(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
    ) -> None:
        assert self.ends(*arguments) == 1
        out, err = capsys.readouterr()
        assert err.startswith(f"tea: {said}")
        assert (out, err.count("\n"), err[-1]) == ("", 1, "\n")

    def test_show_config_prints_every_setting_with_its_source_and_hides_secrets(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TEA_STORE", "postgresql://ann:hunter2@h/db")
        assert self.ends("--show-config", "--cups=3", "--guests=Ann", "--guests=Bob") == 0
        assert capsys.readouterr().out.splitlines() == [
            "cups = 3  (command line)",
            "steep-seconds = 180  (default)",
            "leaf = black  (default)",
            "milk = no  (default)",
            "guests = Ann, Bob  (command line)",
            "store = postgresql://ann:***@h/db  (environment variable TEA_STORE)",
            "bell = ws://bell/  (default)",
            "host = found  (default)",
        ]

    def test_what_show_config_prints_is_an_ini_file_again(self) -> None:
        settings = load(argv={"guests": ["Ann", "Bob"], "milk": ["yes"]})
        lines = [line.rpartition("  (")[0] for line in as_config(TABLE, settings).splitlines()]
        again = load_ini("[tea]\n" + "\n".join(line for line in lines))
        assert again["guests"].value == ("Ann", "Bob")
        assert again["milk"].value is True

    def test_show_config_still_refuses_what_is_wrong(self) -> None:
        assert self.ends("--show-config", "--cups=11") == 1

    def test_help_wins_over_errors_in_values(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.ends("--cups=0", "--help") == 0
        assert capsys.readouterr().out.startswith("Usage: twistd [-n] tea [options]")

    def test_the_version_is_printed_and_the_process_ends(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.ends("--version") == 0
        assert capsys.readouterr().out.startswith("ChatFlow ")


class TestManual:
    def test_help_names_every_option_its_variable_default_and_limits(self) -> None:
        text = " ".join(as_help(TABLE, 80).split())
        for option in TABLE.own_options:
            assert f"--{option.name}" in text
            assert option.help in text
            assert TABLE.variable(option) in text
            if not option.is_flag:
                assert option.kind.allowed in text
        assert "default: whoever is there" in text
        assert "--no-milk" in text
        assert "twistd -n tea" in text

    def test_help_says_how_to_keep_passwords_off_the_command_line(self) -> None:
        assert "the command line is visible to everyone" in " ".join(as_help(TABLE, 80).split())

    def test_help_keeps_to_its_width(self) -> None:
        assert max(len(line) for line in as_help(TABLE, 60).splitlines()) <= 60

    def test_each_group_stands_once_with_its_options(self) -> None:
        lines = as_help(TABLE, 80).splitlines()
        assert [line for line in lines if line in {"Drinking", "Making"}] == ["Drinking", "Making"]
        assert lines.index("  --host TEXT") < lines.index("Making")

    def test_the_page_has_no_line_that_help_has_not(self) -> None:
        page, text = as_page(TABLE, "Tea"), as_help(TABLE, 80)
        for option in TABLE.options:
            assert f"--{option.name}" in page
            assert f"--{option.name}" in text


def test_under_twistd_an_error_is_that_line_alone(tmp_path: Path) -> None:
    """twistd prints all of its help for a usage error, to stdout and with the error at its end."""
    (tmp_path / "twisted/plugins").mkdir(parents=True)
    (tmp_path / "twisted/plugins/tea_plugin.py").write_text(
        "from twisted.application.service import ServiceMaker\n"
        "tea = ServiceMaker('Tea', 'tea_tap', 'Makes tea.', 'tea')\n"
    )
    (tmp_path / "tea_tap.py").write_text(
        "from tests.test_options import Options\ndef makeService(options):\n    raise AssertionError\n"
    )
    checkout = [str(Path(chatflow.__file__).parents[1]), str(Path(__file__).parents[1])]
    run = subprocess.run(
        [str(Path(sys.executable).with_name("twistd")), "-n", "tea", "--cups=0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *checkout])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr == "tea: cups = '0' (command line): must be a whole number from 1 to 12\n"


class TestWhatTheWorldWrites:
    """Values as shells, secrets' files, editors and compose files make them."""

    @pytest.mark.parametrize("text", ["3\n", "3\r\n", "\t3 ", "\ufeff3\n", "\xa03\xa0", "\n3"])
    def test_what_is_around_a_value_of_the_environment_does_not_count(self, text: str) -> None:
        assert load(environ={"TEA_CUPS": text})["cups"].value == 3

    @pytest.mark.parametrize("text", ["3\r", "3 \r", "\xa03", "\t3\t", "\ufeff3"])
    def test_nor_does_what_is_around_a_value_of_the_file(self, text: str) -> None:
        assert load_ini(f"[tea]\ncups = {text}\n")["cups"].value == 3

    @pytest.mark.parametrize("text", ["1 2", "1\n2", "1\x002", "3\x1b", "'3", "３"])
    def test_what_is_within_it_does(self, text: str) -> None:
        assert "must be a whole number" in refusal(environ={"TEA_CUPS": text})

    @pytest.mark.parametrize("text", ["'3'", '"3"'])
    def test_quotes_are_named_as_what_is_wrong(self, text: str) -> None:
        assert "leave them out" in refusal(environ={"TEA_CUPS": text})
        assert "leave them out" in ini_refusal(f"[tea]\ncups = {text}")

    @pytest.mark.parametrize("text", ["", " ", "\n"])
    def test_an_empty_value_is_named_as_that(self, text: str) -> None:
        assert "it is empty, leave it out for the default" in refusal(environ={"TEA_CUPS": text})

    def test_what_does_not_look_like_a_key_is_not_repeated(self) -> None:
        for line in ("postgresql://ann:hunter2@h/db?sslmode = x", "p\x1b[2Jhunter2 = 3", "hunter2@h = 3"):
            assert "hunter2" not in ini_refusal(f"[tea]\n{line}")
            assert "hunter2" not in ini_refusal(f"[tea]\n{line}\n{line}")
        assert "hunter2" not in ini_refusal("[postgresql://ann:hunter2@h]")


class TestFiles:
    @pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    def test_line_ends_and_marks_of_every_system(self, tmp_path: Path, line_end: str, mark: bytes) -> None:
        file = tmp_path / "tea.ini"
        file.write_bytes(mark + line_end.join(["[tea]", "cups = 3", "guests = Zoë", ""]).encode())
        config = TestCommandLine().config("--config", str(file))
        assert (config["cups"], config["guests"]) == (3, ("Zoë",))

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
    def test_another_encoding_is_named_as_what_is_wrong(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str
    ) -> None:
        file = tmp_path / "tea.ini"
        file.write_text("[tea]\ncups = 3\nguests = Zoë\n", encoding=encoding)
        assert TestCommandLine().ends("--config", str(file)) == 1
        assert capsys.readouterr().err == (
            f"tea: config (command line): file {file} is not UTF-8 text: save it as UTF-8\n"
        )

    def test_half_of_a_password_is_no_argument_to_be_repeated(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert TestCommandLine().ends("--store=postgresql://ann:x", "hunter2@h/db") == 1
        assert "hunter2" not in capsys.readouterr().err

    def test_what_could_control_a_terminal_is_shown_as_text(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert TestCommandLine().ends("\x1b[2J\u202ecoffee") == 1
        assert capsys.readouterr().err.isascii()
