//! What operators want.

use levada_protocol::error::Result;

use super::{Coordinator, offsets::check_empty};
use crate::record::Record;

impl Coordinator {
    pub(super) fn delete_group(&mut self, name: &str, out: &mut Vec<Record>) -> Result<()> {
        check_empty(name, self.group(name)?, "a group is deleted only while it has none")?;
        self.write(Record::GroupGone { group: name.to_owned() }, out);
        Ok(())
    }
}
