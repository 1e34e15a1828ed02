import asyncio
import stat
from collections.abc import AsyncIterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio
from pydantic import SecretStr

from shared.ids import new_id
from shared.mail import Mail, Mailbox, MailNotSent, SmtpMailer, Unconfigured, mailer_for, message_of
from shared.settings import Settings

SENDER = "Guardian <no-reply@guardian.example>"


def mail(**fields: object) -> Mail:
    values = {"id": new_id(), "to": "ada@example.com", "subject": "Hello", "text": "Dear Ada,\nhello.\n"} | fields
    return Mail(**values)  # type: ignore[arg-type]


class SmtpServer:
    """Enough of RFC 5321 to take a mail; refuses everybody at ``refused@example.com``."""

    def __init__(self) -> None:
        self.received: list[tuple[list[str], bytes]] = []
        self.commands: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipients: list[str] = []
        writer.write(b"220 test\r\n")
        while line := (await reader.readline()).decode().strip():
            self.commands.append(line)
            verb = line.split()[0].upper()
            if verb == "EHLO":
                writer.write(b"250-test\r\n250-AUTH PLAIN\r\n250 8BITMIME\r\n")
            elif verb == "AUTH":
                writer.write(b"235 ok\r\n")
            elif verb == "RCPT" and "refused@" in line:
                writer.write(b"550 no such person refused@example.com\r\n")
            elif verb == "DATA":
                writer.write(b"354 go on\r\n")
                body = await reader.readuntil(b"\r\n.\r\n")
                self.received.append((recipients, body))
                writer.write(b"250 taken\r\n")
            else:
                if verb == "RCPT":
                    recipients.append(line)
                writer.write(b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n")
            if verb == "QUIT":
                break
        writer.close()


@pytest_asyncio.fixture
async def smtp() -> AsyncIterator[tuple[SmtpServer, int]]:
    server = SmtpServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    yield server, listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()


class TestMailbox:
    async def test_a_private_file_per_mail(self, tmp_path: Path) -> None:
        box = Mailbox(tmp_path / "mail", SENDER)
        sent = mail(subject="Grüße", text="Schöne Grüße\nhttp://127.0.0.1/verify-email?token=" + "x" * 80 + "\n")
        await box.send(sent)
        (path,) = (tmp_path / "mail").iterdir()
        assert path.name == f"{sent.id}.eml"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        (received,) = await box.newest()
        assert (received.id, received.to, received.subject) == (str(sent.id), sent.to, sent.subject)
        assert received.lines == sent.text.splitlines()

    async def test_the_same_mail_again_is_one_mail(self, tmp_path: Path) -> None:
        box, sent = Mailbox(tmp_path, SENDER), mail()
        for _ in range(2):
            await box.send(sent)
        assert len(await box.newest()) == 1

    async def test_newest_first_and_one_by_its_id(self, tmp_path: Path) -> None:
        box = Mailbox(tmp_path, SENDER)
        sent = [mail(subject=str(n)) for n in range(3)]
        for each in sent:
            await box.send(each)
        assert [each.subject for each in await box.newest(2)] == ["2", "1"]
        found = await box.read(sent[0].id)
        assert found is not None
        assert found.subject == "0"
        assert await box.read(UUID(int=7)) is None

    async def test_nothing_in_it_yet(self, tmp_path: Path) -> None:
        assert await Mailbox(tmp_path / "none").newest() == []

    async def test_it_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "mail").write_text("a file where the folder should be")
        with pytest.raises(MailNotSent, match="cannot be written"):
            await Mailbox(tmp_path / "mail").send(mail())


class TestSmtp:
    async def test_a_mail_arrives(self, smtp: tuple[SmtpServer, int]) -> None:
        server, port = smtp
        sent = mail()
        await SmtpMailer(f"smtp://ann%40x:p%3Aw@127.0.0.1:{port}", SENDER).send(sent)
        ((recipients, body),) = server.received
        assert recipients == ["RCPT TO:<ada@example.com>"]
        assert any(command.startswith("AUTH") for command in server.commands)
        message = message_from_bytes(body, policy=default)
        assert (message["Subject"], message["From"]) == ("Hello", SENDER)
        assert message["Message-ID"] == f"<{sent.id}@guardian.example>"
        assert message["Auto-Submitted"] == "auto-generated"

    async def test_refused_without_naming_the_recipient(self, smtp: tuple[SmtpServer, int]) -> None:
        with pytest.raises(MailNotSent) as caught:
            await SmtpMailer(f"smtp://127.0.0.1:{smtp[1]}", SENDER).send(mail(to="refused@example.com"))
        assert "refused@" not in str(caught.value)

    async def test_nobody_listens(self, unused_tcp_port: int) -> None:
        with pytest.raises(MailNotSent):
            await SmtpMailer(f"smtp://127.0.0.1:{unused_tcp_port}", SENDER).send(mail())

    @pytest.mark.parametrize("url", ["http://mail.example", "smtp://", "mail.example:25"])
    def test_not_an_address_of_a_server(self, url: str) -> None:
        with pytest.raises(ValueError, match="smtp://"):
            SmtpMailer(url, SENDER)


class TestMailerFor:
    def test_smtp_where_it_is_set(self, settings: Settings) -> None:
        chosen = settings.model_copy(update={"smtp_url": SecretStr("smtps://mail.example")})
        assert isinstance(mailer_for(chosen), SmtpMailer)

    def test_the_mailbox_under_the_home_in_development(self, settings: Settings) -> None:
        made = mailer_for(settings)
        assert isinstance(made, Mailbox)
        assert made.folder == settings.home / "mail"

    async def test_production_without_smtp_writes_no_file(self, settings: Settings) -> None:
        made = mailer_for(settings.model_copy(update={"environment": "production"}))
        assert isinstance(made, Unconfigured)
        with pytest.raises(MailNotSent, match="GUARDIAN_SMTP_URL"):
            await made.send(mail())


def test_a_line_break_cannot_smuggle_a_header_in() -> None:
    with pytest.raises(ValueError, match="linefeed"):
        message_of(mail(subject="Hello\nBcc: everybody@example.com"), SENDER)
