"""A request's body, kept while it is worked on, so that another replica can be handed it should the first one die."""

from dataclasses import dataclass

from starlette.types import Message, Receive


@dataclass
class Room:
    """What all bodies that are kept at a time may take together, in bytes."""

    left: int


class KeptBody:
    """What a client sends, to be received any number of times, as long as there is room for it.

    Args:
        receive: of the request.
        room: what it may take, given back by `drop`.
    """

    def __init__(self, receive: Receive, room: Room) -> None:
        self._receive = receive
        self._room = room
        self._messages: list[Message] = []
        self._size = 0
        self.is_kept = True
        """Whether all that was received can be received again."""
        self.has_left = False
        """Whether the client has hung up."""

    def receiver(self) -> Receive:
        """A `receive` that begins at the start of the body, if it is kept, and goes on with what comes."""
        position = 0

        async def receive() -> Message:
            nonlocal position
            if position < len(self._messages):
                message = self._messages[position]
            else:
                message = await self._receive()
                self._keep(message)
            position += 1
            return message

        return receive

    def drop(self) -> None:
        """Forget it, once it will not be needed again."""
        self._room.left += self._size
        self._size = 0
        self._messages = []
        self.is_kept = False

    def _keep(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self.has_left = True
        elif self.is_kept:
            size = len(message.get("body", b""))
            if size > self._room.left:
                self.drop()
                return
            self._room.left -= size
            self._size += size
            self._messages.append(message)
