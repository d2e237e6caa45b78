"""Looking at a prepared dataset before a GPU hour is spent on it: measures, problems, a report.

`survey_dataset` measures, `nerfcore.survey.report.write_report` shows; `scripts/inspect_dataset.py`
does both.
"""

from nerfcore.survey.survey import Survey, survey_dataset

__all__ = ["Survey", "survey_dataset"]
