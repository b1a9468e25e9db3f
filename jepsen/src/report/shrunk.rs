//! What the history was shrunk to: its story, and where it is.

use crate::{
    results::{Results, Shrunk},
    shrink::{HISTORY, STORY},
};

use super::{section, text::Esc};

/// Nothing, if it was not.
pub(super) fn part(results: &Results) -> String {
    let Some(Shrunk { kind, story }) = &results.shrunk else { return String::new() };
    let content = format!(
        r#"<p class="note">What still shows {}: <a href="{STORY}">{STORY}</a>, as a history <a href="{HISTORY}">{HISTORY}</a>.</p>
<pre class="story">{}</pre>
"#,
        Esc(kind),
        Esc(story.trim_end())
    );
    section("In short", &content)
}
