"""`thaw workers`: who does the work."""

import typer

from thaw.cli.session import AsJson, session

app = typer.Typer(no_args_is_help=True, help="See who trains and prepares.")


@app.command(name="list")
def list_workers(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the workers that were heard of lately, with their queues and devices.

    Example: thaw workers list
    """
    with session(context, as_json=as_json) as (client, out):
        found = client.capabilities().workers
        if out.as_json:
            out.document({"object": "list", "data": [worker.raw for worker in found], "has_more": False})
            return
        if not found:
            out.note("There are none.")
            return
        rows = [
            (
                worker.id,
                "draining" if worker.draining else ", ".join(worker.queues),
                ", ".join(str(device) for device in worker.devices),
                worker.keras or "-",
                worker.tensorflow or "-",
                worker.refuses_training or worker.resume_fidelity or "-",
            )
            for worker in found
        ]
        out.table(("ID", "QUEUES", "DEVICES", "KERAS", "TENSORFLOW", "RESUMES"), rows)
