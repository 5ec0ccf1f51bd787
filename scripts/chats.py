"""Rule ``chats``: validate raw short conversations and write the chats, the rejected rows and a summary."""

from gateau.command import run
from gateau.data.arguments import intake_parser, run_intake


def main() -> None:
    args = intake_parser("chats", __doc__).parse_args()

    from gateau.data.chats import short_intake

    run_intake(short_intake(args.options, args.duplicate_content == "keep"), args)


if __name__ == "__main__":
    run(main)
