"""What a terminal loop wrote."""


class Screen(list):
    """Pieces of text, in their order; taken, they are forgotten."""

    def take(self):
        text = "".join(self)
        self.clear()
        return text
