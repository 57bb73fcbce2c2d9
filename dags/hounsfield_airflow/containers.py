"""A stage in its image by any Docker API, docker's or podman's: locked down, with the run's files alone."""

import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from airflow.providers.docker.exceptions import DockerContainerFailedException
from airflow.providers.docker.hooks.docker import DockerHook
from airflow.providers.docker.operators.docker import DockerOperator
from docker.types import DeviceRequest, Mount

from hounsfield_airflow.deployment import project, settings
from hounsfield_airflow.runners import judge
from pipeline.graph import load_stages
from pipeline.runs.settings import IMAGE

USER = 10001
"""Whom the images run as; in the group of the workspace's folder, nothing else of this machine is theirs."""
LOCKED_DOWN = {
    "read_only": True,
    "tmpfs": {"/tmp": ""},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}
GPU = Path("/dev/nvidiactl")
"""Is there where the machine has a GPU that a container can be given."""
NETWORK = "HOUNSFIELD_NETWORK"
"""The network by which the registry's server is reached; docker's own if it is not set."""
WORKSPACE, STAGE = "hounsfield.workspace", "hounsfield.stage"
"""The labels of a container that say whose it is, and what it runs there."""
SERVER = ("MLFLOW_", "AWS_")
"""Variables of the worker that say where the registry's server is, and who asks."""


def container_task(
    task_id: str, command: Sequence[str], cwd: str, stage: str, env: Mapping[str, str], **arguments: Any
) -> DockerOperator:
    """A task that runs a command in the image of a stage; arguments as `runners.command_task` has them."""
    deployment, meta = settings(), load_stages(project())[stage].meta
    image = f"{deployment.images}{stage}:{deployment.image_tag}"
    return StageContainer(
        task_id=task_id,
        image=image,
        command=list(command),
        working_dir=cwd,
        environment={**env, IMAGE: image},
        home=deployment.home,
        stage=stage,
        gpu=bool(meta.get("gpu")),
        server=bool(meta.get("network")),
        **arguments,
    )


class StageContainer(DockerOperator):
    """A command in the image of a stage; its working directory is the workspace of a run.

    Args:
        home: HOUNSFIELD_HOME, which is at the same path inside, and all of this machine that is.
        stage: whose attempts it ends that were left running; another stage may run beside it.
        gpu: give it the GPUs of the machine, where there are any.
        server: let it reach the registry's server, if there is one.
        kwargs: as DockerOperator has them.
    """

    template_fields = (*DockerOperator.template_fields, "working_dir")

    def __init__(self, *, home: Path, stage: str, gpu: bool, server: bool, **kwargs: Any) -> None:
        super().__init__(
            mounts=[Mount(str(home), str(home), type="bind")],
            mount_tmp_dir=False,
            network_mode="none",
            auto_remove="force",
            do_xcom_push=False,
            **kwargs,
        )
        self.home, self.stage, self.gpu, self.server = home, stage, gpu, server

    @cached_property
    def hook(self) -> DockerHook:
        """Docker's, which locks down every container that it makes."""
        hook = super().hook
        client = hook.api_client
        client.create_host_config = partial(client.create_host_config, **LOCKED_DOWN)
        return hook

    def execute(self, context: Any) -> Any:
        """Run the command and wait for its end; fails as `runners.judge` says."""
        workspace = Path(str(self.working_dir))
        share_with_group(self.home, workspace)
        self.user = f"{USER}:{workspace.stat().st_gid}"
        labels = {WORKSPACE: str(workspace), STAGE: self.stage}
        self.labels = labels
        if self.gpu and GPU.exists():
            self.device_requests = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
        if self.server and os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
            self.network_mode = os.environ.get(NETWORK, "bridge")
            self._private_environment |= {
                name: value for name, value in os.environ.items() if name.startswith(SERVER)
            }
        self._end_earlier([f"{name}={value}" for name, value in labels.items()])
        try:
            return super().execute(context)
        except DockerContainerFailedException as error:
            code = re.search(r"'StatusCode': (\d+)", str(error))
            lines = [line if isinstance(line, str) else line.decode() for line in error.logs or []]
            judge(int(code[1]) if code else 1, [line for text in lines for line in text.splitlines()])

    def _end_earlier(self, labels: list[str]) -> None:
        """End what an earlier attempt left running: a container outlives the worker that began it."""
        for left in self.cli.containers(all=True, filters={"label": labels}):
            self.log.info("ending the container %s of an earlier attempt", left["Id"][:12])
            self.cli.remove_container(left["Id"], force=True)


def share_with_group(home: Path, workspace: Path) -> None:
    """Give the group what the owner may do in `workspace`, and the folders of `home` that all runs share.

    Files of the DVC cache stay as they are: they are only read, and a workspace may be linked to them.
    """
    for folder, _, files in os.walk(home):
        place = Path(folder)
        _open_up(place)
        if place.is_relative_to(workspace):
            for name in files:
                _open_up(place / name)


def _open_up(path: Path) -> None:
    """The group gets what the owner has; what is made in a folder stays the group's."""
    # Another run may be removing its workspace.
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return
        wanted = mode | (mode & stat.S_IRWXU) >> 3 | (stat.S_ISGID if stat.S_ISDIR(mode) else 0)
        if wanted != mode:
            # Made by a container, whose files are the group's from the start (components/entrypoint.sh).
            with suppress(PermissionError):
                path.chmod(stat.S_IMODE(wanted))
