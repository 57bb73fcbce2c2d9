"""The form that a person fills in for a new organ, as Airflow's UI shows it.

Values are checked by the command that gets them (`pipeline.runs.onboarding`): it knows what is there, and
says what is wrong in a sentence. The types here only choose the fields.
"""

from airflow.sdk import Param

ORGAN_FORM = {
    "organ": Param(
        "",
        type="string",
        title="Organ",
        description="what it is called: lower-case letters, digits and '_', such as left_kidney",
    ),
    "source": Param(
        "",
        type="string",
        title="Source",
        description="s3://BUCKET/PREFIX, or a folder that the worker can read, with images and labels",
    ),
    "labels": Param(
        None,
        type=["null", "string", "object"],
        title="Labels",
        description="names and values, such as spleen=1, tumour=2; empty: all that are in the label maps",
    ),
    "modality": Param(
        "auto",
        type="string",
        enum=["auto", "CT", "MR"],
        title="Modality",
        description="auto: as data say",
    ),
    "window": Param(
        None,
        type=["null", "string", "array"],
        title="Window",
        description="lowest and highest HU that the network sees, such as -160, 240; empty: by the data",
    ),
    "budget": Param(
        None,
        type=["null", "string", "integer"],
        title="Budget",
        description="steps of training; empty: as the machine allows",
    ),
    "schedule": Param(
        None,
        type=["null", "string"],
        title="Schedule",
        description="cron in UTC, on which it is retrained once merged; empty: the default, 0 3 * * 1",
    ),
    "watch": Param(
        False,
        type="boolean",
        title="Watch the source",
        description="once merged, new scans that arrive there are taken in",
    ),
}
