"""How commands end, and that files are whole; bad options of the commands that have no tests of their own."""
import pytest

from cosim import board_test, link_speed, virtual_board
from hdl import board
from model.command_line import command_line, run_cli
from model.errors import InputError
from model.files import write_whole


class ToolError(Exception):
    """What a tool raises."""


@pytest.mark.parametrize(("what", "code", "said"), [
    (None, 0, ""), (3, 3, ""), (InputError("x = 1:\nallowed is 2"), 2, "crosstrain: x = 1: allowed is 2\n"),
    (KeyboardInterrupt(), 130, "crosstrain: nothing kept\n"), (ToolError("two\nlines"), 1, "crosstrain: two\nlines\n"),
])
def test_exit_codes(capsys, what, code, said):
    cli = command_line()

    @cli.command()
    def _run():
        if isinstance(what, BaseException):
            raise what
        return what

    assert run_cli(cli, "test", [], "nothing kept", failures=(ToolError,)) == code
    assert capsys.readouterr().err == said


def test_what_a_command_returns_can_be_acted_on():
    cli = command_line()
    cli.command()(lambda: "done")
    assert run_cli(cli, "test", [], "", act=len) == 4
    assert run_cli(cli, "test", ["--help"], "", act=len) == 0


def test_an_error_of_the_project_is_not_swallowed():
    cli = command_line()

    @cli.command()
    def _run():
        raise ToolError

    with pytest.raises(ToolError):
        run_cli(cli, "test", [], "")


def test_a_file_that_is_not_finished_leaves_nothing(tmp_path):
    def fail():
        with write_whole(tmp_path / "deep" / "x.json") as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize(("command", "arguments", "message"), [
    (board_test, ["--layers", "abc"], "layers 'abc': must be two or more sizes"),
    (board_test, ["--images", "0"], "images = 0: allowed is 1 to"),
    (board_test, ["--layers", "64-200-10"], "a tile of this build has unit.n_cols = 54"),
    (board_test, ["--layers", "60-54-10"], "an image of digits has 64 pixels"),
    (board_test, ["--target", "none"], "unknown target 'none': allowed are ulx3s-85f"),
    (board_test, ["--target", "ecp5-25f", "--netlist", "--images", "2"], "only ice40"),
    (board_test, ["--port", "/dev/none"], "/dev/none: the port failed"),
    (board_test, ["--port", "/dev/none", "--netlist"], "a real board has no netlist"),
    (link_speed, ["--dataset", "none"], "dataset = none: allowed are mnist"),
    (virtual_board, ["icebreaker", "--flip", "2"], "flip = 2: allowed is 0 to 1"),
    (virtual_board, ["icebreaker", "--port", __file__], "allowed is a new name in a directory that exists"),
    (virtual_board, ["icebreaker", "--port", "/none/port"], "allowed is a new name in a directory that exists"),
    (board, ["none"], "unknown target 'none'"),
    (board, ["icebreaker", "--out", f"{__file__}/x"], "cannot be made"),
])
def test_bad_options_are_one_line(capsys, command, arguments, message):
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("crosstrain: ")
    assert message in error
    assert error.count("\n") == 1
