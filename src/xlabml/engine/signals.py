"""Signals: Lightning's handlers are not registered; the callback `Stopping` has its own."""

from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector


class Signals(_SignalConnector):
    """Registers no handler: Lightning's handler starts a collective, so that a signal to one rank hangs all.

    `Stopping` has its own handlers; the earlier ones are restored when the run ends.
    """

    def register_signal_handlers(self) -> None:
        self.received_sigterm = False
        self._original_handlers = self._get_current_signal_handlers()
