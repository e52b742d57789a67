"""``constellation keygen``: the credentials of a fabric."""

from __future__ import annotations

import click


@click.command()
@click.argument("folder", required=False)
@click.option("--owner", metavar="NAME", help="Make a deployer credential for somebody else: deployer-NAME.pem.")
@click.option("--days", metavar="N", type=int, default=365, show_default=True, help="How long that one is valid.")
def keygen(*, folder: str | None, owner: str | None, days: int) -> None:
    """Make the credentials of a fabric, in FOLDER.

    FOLDER is ~/.config/constellation where it is not given (XDG_CONFIG_HOME moves it). Two files come of it: node.pem, for
    each computer that is to be a node, and deployer.pem, for you. With a node.pem there, --owner makes a credential for one
    more person. Not needed where all daemons listen on loopback. Nothing is overwritten.

    \b
    Example:
        constellation keygen
        scp ~/.config/constellation/node.pem big:.config/constellation/
        constellation keygen --owner alice

    Exit codes: 0 made, 2 wrong use, or a file that is there already.
    """  # noqa: D301  # the mark is click's
    from constellation.fabric.credential import keygen as make

    written = make(folder, owner, days)
    for path in written:
        click.echo(path)
    click.echo("keep them as they are, readable by you alone", err=True)
