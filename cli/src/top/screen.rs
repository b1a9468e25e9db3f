//! The terminal: taken over as a whole, and given back however the command ends.

use std::io::{self, BufWriter, IsTerminal, Read, Stdout, Write};

use anyhow::{Context, Result};
use crossterm::{
    cursor, queue,
    style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor},
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    frame::{Frame, Kind, Line, Order},
    view::View,
};

/// What was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Order,
    Other,
}

impl Key {
    /// In a raw terminal Ctrl-C is a key like any other.
    const fn of(byte: u8) -> Self {
        match byte {
            b'q' | b'Q' | 0x03 | 0x04 => Self::Quit,
            b's' | b'S' => Self::Order,
            _ => Self::Other,
        }
    }
}

/// Whether there is one.
pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// The terminal, for as long as this lives.
pub(super) struct Screen {
    out: BufWriter<Stdout>,
    keys: UnboundedReceiver<u8>,
}

impl Screen {
    pub(super) fn open() -> Result<Self> {
        terminal::enable_raw_mode().context("cannot take over the terminal")?;
        let mut screen = Self { out: BufWriter::new(io::stdout()), keys: read_keys() };
        queue!(screen.out, EnterAlternateScreen, cursor::Hide)?;
        screen.out.flush()?;
        Ok(screen)
    }

    /// The next key; never, if nobody is there to press one.
    pub(super) async fn key(&mut self) -> Key {
        match self.keys.recv().await {
            Some(byte) => Key::of(byte),
            None => std::future::pending().await,
        }
    }

    /// Shows a view, or why there is none.
    pub(super) fn show(&mut self, view: Result<&View, &str>, order: Order) -> Result<()> {
        let (width, height) = terminal::size().context("the terminal has no size")?;
        let (width, height) = (usize::from(width), usize::from(height));
        let room = height.saturating_sub(1);
        let mut lines = match view {
            Ok(view) => Frame { view, order, width, height: room }.lines(),
            Err(why) => vec![Line { kind: Kind::Alarm, text: format!("! {why}").chars().take(width).collect() }],
        };
        lines.truncate(room);
        for (row, line) in (0..).zip(&lines) {
            queue!(self.out, cursor::MoveTo(0, row))?;
            match line.kind {
                Kind::Head => queue!(self.out, SetAttribute(Attribute::Bold))?,
                Kind::Alarm => queue!(self.out, SetForegroundColor(Color::Red))?,
                Kind::Plain => {}
            }
            queue!(self.out, Print(&line.text), SetAttribute(Attribute::Reset), ResetColor)?;
            queue!(self.out, Clear(ClearType::UntilNewLine))?;
        }
        let below = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        queue!(self.out, cursor::MoveTo(0, below), Clear(ClearType::FromCursorDown))?;
        let keys: String = "q ends   s orders partitions".chars().take(width).collect();
        queue!(self.out, cursor::MoveTo(0, u16::try_from(room).unwrap_or(u16::MAX)), Print(keys))?;
        self.out.flush().context("the terminal is gone")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Whatever of it fails, there is nobody left to tell.
        let _ = queue!(self.out, cursor::Show, LeaveAlternateScreen);
        let _ = self.out.flush();
        let _ = terminal::disable_raw_mode();
    }
}

/// Keys from a thread of their own: it ends with the process.
fn read_keys() -> UnboundedReceiver<u8> {
    let (pressed, keys) = unbounded_channel();
    std::thread::spawn(move || {
        for byte in io::stdin().lock().bytes().map_while(Result::ok) {
            if pressed.send(byte).is_err() {
                return;
            }
        }
    });
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known() {
        let keys = [b'q', 0x03, b's', b'x', 0x1b].map(Key::of);
        assert_eq!(keys, [Key::Quit, Key::Quit, Key::Order, Key::Other, Key::Other]);
    }
}
