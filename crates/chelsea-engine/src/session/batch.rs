//! Several sequences decoded together: their rows share each pass over the weights, which is what a decode step of
//! one sequence spends its time on while contexts are short. Each still attends to its own cache alone.

use super::Session;
use crate::EngineError;
use chelsea_model::{Chunk, Wanted, Workspace};
use std::sync::Arc;

impl Session {
    /// Takes one more token into each session, `tokens[i]` into `sessions[i]`, in one pass over the weights; each
    /// session then holds the logits of the token after it, as after [`Session::step`]. The sessions run on one
    /// model and may differ in everything else; `workspace` is kept by the caller from step to step.
    ///
    /// # Errors
    /// [`EngineError`] when the numbers of sessions and tokens differ, when models differ, and when one of the
    /// sequences is full: all of these before any session is touched. After [`EngineError::Model`] with an error of
    /// a cache the sessions must be dropped.
    pub fn step_many(
        sessions: &mut [&mut Session],
        tokens: &[u32],
        workspace: &mut Workspace,
    ) -> Result<(), EngineError> {
        if sessions.len() != tokens.len() {
            return Err(EngineError::BatchLength { sessions: sessions.len(), tokens: tokens.len() });
        }
        let Some(first) = sessions.first() else { return Ok(()) };
        let (model, pool) = (first.model.clone(), first.pool.clone());
        for session in sessions.iter() {
            if !Arc::ptr_eq(&session.model, &model) {
                return Err(EngineError::BatchModels);
            }
            session.check_room(1)?;
        }
        let mut chunks: Vec<Chunk<'_>> = sessions
            .iter_mut()
            .zip(tokens.chunks(1))
            .map(|(session, tokens)| Chunk { tokens, cache: &mut session.cache, logits: Wanted::Last })
            .collect();
        pool.install(|| model.forward(&mut chunks, workspace))?;
        drop(chunks);
        let rows = workspace.logits().chunks_exact(model.config().vocab);
        for ((session, &token), logits) in sessions.iter_mut().zip(tokens).zip(rows) {
            session.workspace.set_logits(logits);
            session.history.push(token);
            session.compact();
        }
        Ok(())
    }
}
