"""Rule ``chats``: validate raw short conversations and write the chats, the rejected rows and a summary."""

from gateau.command import run
from gateau.data.arguments import intake_parser, run_intake
from gateau.data.chats import CHAT_ROWS


def main() -> None:
    run_intake(CHAT_ROWS, intake_parser(CHAT_ROWS, __doc__).parse_args())


if __name__ == "__main__":
    run(main)
