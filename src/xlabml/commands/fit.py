"""The console script `xlab`: fit, validate, test, predict, and what prepares data for them.

How the pieces go together: jsonargparse checks every setting against the signatures, whatever file or flag it comes
from (parsing.py); parts are then built from the checked settings by `xlabml.settings`, as a checkpoint's are
(building.py); what each command does with them is here.
"""

import contextlib
import logging
import sys
import warnings
from collections.abc import Sequence

from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from xlabml.callbacks import Checkpoints, Curves, Predictions, Spikes, attention_lines, skip_argument
from xlabml.callbacks.progress import find_figures
from xlabml.checkpoints import Contents
from xlabml.engine import Run, wait_for_children

from . import data as data_commands
from .building import BuildingCLI, find_callback
from .command_line import files_first, take_imports
from .errors import report_errors, usage_errors
from .horizon import describe_new_horizon
from .output import lossy_output
from .parser import Parser
from .parsing import DEFAULTS

__all__ = ['DEFAULTS', 'Parser', 'XLabCLI', 'find_callback', 'main', 'quieten']


class XLabCLI(BuildingCLI):
    """All commands of `xlab`.

    Args:
        args: Command-line arguments, or settings as a dictionary.
        run: Whether to run the subcommand that the arguments name; else there is none, and the objects are built.
    """

    def _run_subcommand(self, subcommand: str) -> None:
        with self._nothing_left_behind():
            getattr(self, f'run_{subcommand}', self._run_data_command)()

    def _run_data_command(self) -> None:
        function = getattr(data_commands, str(self.subcommand))
        config = self.config_init[self.subcommand]
        arguments = {name: config[name] for name in self._subcommand_method_arguments[str(self.subcommand)]}
        function(self.datamodule, **arguments)

    def run_fit(self) -> None:
        """Train, or go on, or say that there is nothing left to do."""
        trainer, data, path = self.trainer, self.datamodule, self._checkpoint_path
        with usage_errors():
            attention = attention_lines(trainer, self.model)
        data.prepare_data()
        for rows in (data.train_rows, data.rows('val')):
            assert len(rows)  # an empty split is refused before anything is written
        if self._checkpoint is not None and self._is_finished(self._checkpoint):
            step = self._checkpoint.step
            self._say(f'{self._checkpoint_name} has finished its {step:,} steps; a larger trainer.max_steps goes on')
            if self._choice.run is None and self._claimed is not None:
                self._claimed.give_up()
            else:
                self._say_results()
            return
        length = data.run_steps(trainer.max_steps, self._own_config().trainer.max_epochs)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with usage_errors():
                self.model.check_schedule(self.model.find_horizon(length, data))
        if self._checkpoint is not None:
            self._say(f'going on from {self._checkpoint_name}')
            self._say_new_run()
            if line := describe_new_horizon(self.model, data, length, self._checkpoint):
                self._say(line)
            step, skipped = self._checkpoint.step, self._checkpoint.place.get('skipped', [])
            known = [pair for *pair, _, _ in skipped if pair in data.skip and pair[1] > step]
            if known:
                self._say(f'the rows of data.skip {known} are left out already, as the checkpoint says: no others are')
        if self.initialized is not None and self._initial is not None:
            self._say(f'initial weights from {self._initial.path}: {self.initialized.describe()}')
        self._say(f'precision {trainer.precision}, run folder {self.run_folder}')
        for line in attention:
            self._say(line)
        trainer.fit(self.model, datamodule=data, ckpt_path=None if path is None else str(path), weights_only=True)
        self._say_results()
        run, spikes = Run.of(trainer), find_callback(trainer, Spikes)
        if spikes.stopped:
            step, is_saved = spikes.stopped, find_callback(trainer, Checkpoints).newest is not None
            skip = skip_argument(trainer, step, step)
            last = '--ckpt_path last' if is_saved else ''  # of another run, where this one has none
            typed = ' '.join(filter(None, ['with', last, skip])) if last or skip else 'as it was'
            goes_on = 'goes on' if is_saved or path is not None else 'begins anew,'
            self._say(
                f'ended by a loss spike at step {step} ({spikes.path}); nothing was saved after it: the same command '
                f'{typed} {goes_on} {"without" if skip else "with"} the rows of that step'
            )
        elif run.ended is not None:
            self._say(f'{run.ended.why} at step {trainer.global_step}; the same command with --ckpt_path last goes on')
        if run.status:
            wait_for_children(trainer)
            raise SystemExit(run.status)

    def _is_finished(self, checkpoint: Contents) -> bool:
        config = self._own_config().trainer
        max_steps = self.datamodule.run_steps(self.trainer.max_steps, config.max_epochs)
        stops = any(isinstance(callback, EarlyStopping) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        saved = checkpoint.callback_state(Checkpoints.__name__)
        is_over = 0 <= max_steps <= checkpoint.step and not saved.get('owes_validation', False)
        return is_over or (stops and saved.get('stopped_early', False))

    def _say_results(self) -> None:
        if self.run_folder is None:
            return
        saver = find_callback(self.trainer, Checkpoints)
        if self._checkpoint is not None and not saver.saved:
            saver.load_state_dict(self._checkpoint.callback_state(saver.state_key))
        best, newest = saver.best, saver.newest
        if best is not None:
            self._say(f'best checkpoint: {best} ({saver.monitor} {saver.saved[best]:.4f})')
        if newest is not None and newest != best:
            self._say(f'newest checkpoint: {newest}')
        if saver.exported is not None:
            self._say(f'its weights are put back, and exported to {saver.exported}')
        if best is None and newest is None:
            self._say('no checkpoint was saved')
        is_written = not find_callback(self.trainer, Curves).is_given_up
        if is_written and any(isinstance(logger, TensorBoardLogger) for logger in self.trainer.loggers):
            self._say(f'curves: tensorboard --logdir {self.run_folder.parent.parent}')

    def run_validate(self) -> None:
        """Evaluate on the val split."""
        self._evaluate('validate', 'val')

    def run_test(self) -> None:
        """Evaluate on the test split."""
        self._evaluate('test', 'test')

    def _say_new_run(self) -> None:
        if self._choice.why_new and self._claimed is not None:
            self._say(f'opening a new run, {self.run_folder}: {self._choice.why_new}')

    def _evaluate(self, command: str, split: str) -> None:
        self.datamodule.prepare_data()
        self._say_new_run()
        getattr(self.trainer, command)(
            self.model,
            datamodule=self.datamodule,
            ckpt_path=str(self._checkpoint_path),
            verbose=False,
            weights_only=True,
        )
        figures = find_figures(self.trainer, f'{split}_')
        counted = f'{self.model.n_evaluated:,} {self.model.counted}'
        self._say(f'{split}: {self.model.describe(figures)} ({counted})')

    def run_predict(self) -> None:
        """Score every document of a split."""
        self.datamodule.prepare_data()
        self._say_new_run()
        self.trainer.predict(
            self.model,
            datamodule=self.datamodule,
            ckpt_path=str(self._checkpoint_path),
            return_predictions=False,
            weights_only=True,
        )
        writer = find_callback(self.trainer, Predictions)
        if writer.path is not None:
            counted = f', {writer.n_counted:,} {self.model.counted}' if writer.n_counted else ''
            self._say(f'predictions: {writer.path} ({writer.n_documents:,} documents{counted})')

    @staticmethod
    @rank_zero_only
    def _say(text: str) -> None:
        print(text, flush=True)


def quieten() -> None:
    """Keep other libraries' advertising and news for developers off the user's terminal."""
    for name in ('lightning.pytorch', 'lightning.fabric'):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        '.*does not have many workers.*',
        '.*LeafSpec.*',
        '.*Checkpoint directory.*',
        '.*smaller than the logging interval.*',
        '.*overrides the configure_model callback.*',  # ours cuts the model for one strategy, and that one only
        '.*is deprecated and will be removed in jsonargparse.*',
    ):
        warnings.filterwarnings('ignore', message=message)
    from jsonargparse._deprecated import JsonargparseDeprecationWarning

    warnings.filterwarnings('ignore', category=JsonargparseDeprecationWarning)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = '--debug' in given
    is_smoke = '--smoke' in given
    given = [argument for argument in given if argument not in ('--debug', '--smoke')]

    def run() -> None:
        quieten()
        Parser.said.clear()
        if not is_smoke:
            XLabCLI(take_imports(given))
            return
        from .smoke import smoke

        smoke(files_first(take_imports(given)))

    with lossy_output() if 'fit' in given else contextlib.nullcontext():
        return report_errors('xlab', run, debug)
