"""What verl loads by its entry point group ``verl.plugins``: registers the advantage estimator `ordergrad`.

verl passes over plugins that fail to load, and would later say "Unknown advantage estimator". So a failure is reported
here, and the estimator is registered all the same: using it raises what went wrong. Outside the package `ordergrad`,
because importing that may be what fails.
"""

import importlib
import logging
from typing import Any, NoReturn

try:
    importlib.import_module("ordergrad.adapters.verl")
except Exception as failure:
    logging.getLogger(__name__).error("ordergrad could not be loaded as a plugin of verl", exc_info=failure)
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    _failure = failure

    def _unavailable(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(f"ordergrad could not be loaded as a plugin of verl: {_failure}") from _failure

    ADV_ESTIMATOR_REGISTRY.setdefault("ordergrad", _unavailable)
