"""Every error this package raises on purpose.

    LadmError
    ├── ConfigError          an option has a value that cannot work            (ValueError)
    ├── InputError           the data cannot be read as documents              (ValueError)
    │   ├── ColumnError      a column is missing or has the wrong shape
    │   └── RowError         one row is bad and `on_error="raise"`
    ├── CalculatorError      the calculator cannot be found or loaded
    │   ├── HubError         the Hub did not give it: network, name, gate or revision
    │   └── UnsupportedModelError   its attention cannot be scored
    │       └── NoFullAttentionError    no layer sees the whole document
    ├── BackendError         the chosen device, backend or launch cannot run here
    ├── MissingExtraError    an optional dependency is not installed           (ImportError)
    ├── PublishError         the Hub did not take, or does not show, what was published
    │   └── HubUnavailableError     it stayed silent, busy or broken for all tries
    └── RunError             a run over a dataset cannot start or continue
        ├── ResumeError      the output holds a run with other settings
        │   └── RunRecordError      its run.json cannot be read                 (also an InputError)
        ├── RunLockedError   another launch is writing the same output
        └── StorageError     the output cannot be written, mostly a full disk

Messages say what was expected, what was found, and what to do next.
"""

from __future__ import annotations


class LadmError(Exception):
    """Base of all errors raised by `ladm_hf`."""


class ConfigError(LadmError, ValueError):
    """An option has a value that cannot work; the message names the option."""


class InputError(LadmError, ValueError):
    """The data cannot be read as documents."""


class ColumnError(InputError):
    """A column is missing or has the wrong shape; the message names it and the columns at hand."""


class RowError(InputError):
    """One row could not be scored and `on_error="raise"`; the message names row and column."""


class CalculatorError(LadmError):
    """The calculator (model, tokenizer or its files) cannot be found or loaded."""


class HubError(CalculatorError):
    """The Hub did not give the calculator; the message says whether it was the network, the name, a gate or
    the revision."""


class UnsupportedModelError(CalculatorError):
    """The model's attention cannot be scored; the message names the model type and what would work."""


class NoFullAttentionError(UnsupportedModelError):
    """No layer of the model sees the whole document; the message names the model type and what would work."""


class BackendError(LadmError, RuntimeError):
    """The chosen backend, device or launch cannot run here; the message gives the remedy."""


class PublishError(LadmError):
    """Publishing did not finish; the message says what the Hub holds now and the command that finishes the job."""


class HubUnavailableError(PublishError):
    """The Hub stayed silent, busy or broken for all tries; the message names the request and the last answer."""


class MissingExtraError(LadmError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class RunError(LadmError, RuntimeError):
    """A run over a dataset cannot start or continue; what is finished is kept."""


class ResumeError(RunError):
    """The output folder holds a run with other settings; the message names every difference."""


class RunRecordError(ResumeError, InputError):
    """A `run.json` cannot be read as the record of a scoring run; the message names the file and the reason."""


class RunLockedError(RunError):
    """Another launch is writing the same output; the message says where it runs."""


class StorageError(RunError):
    """The output cannot be written; the message says what was kept and how to continue."""
