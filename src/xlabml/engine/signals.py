"""Signals: Lightning's handlers are left out; the callback `Stopping` has its own."""

from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector


class Signals(_SignalConnector):
    """Registers no handler: Lightning's starts a collective from within, so that a signal to one rank hangs them all.

    Stopping has handlers of its own; what was there before is put back when the run ends.
    """

    def register_signal_handlers(self) -> None:
        self.received_sigterm = False
        self._original_handlers = self._get_current_signal_handlers()
