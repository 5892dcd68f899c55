//! Chooses the device of a model before its lanes are planned.

use classifier::{Bundle, Device, DeviceOptions, LoadError, Placement, Provider, Session, SessionOptions};

use super::plan::GPU_THREADS;

/// The device of a model. It must be known before the batch limits, which are larger on a GPU.
#[derive(Debug)]
pub struct Placed {
    /// Options for the session of every lane. [`Device::Auto`] is already replaced by the device
    /// found, so that all lanes run on the same one.
    pub(super) device: DeviceOptions,
    pub(super) placement: Placement,
    /// The session that was loaded to find a GPU. The first lane takes it.
    pub(super) session: Option<Session>,
}

impl Placed {
    /// Loads the graph on the configured device, unless that is the CPU. `threads` is the number of
    /// the session's CPU threads.
    pub fn find(bundle: &Bundle, device: DeviceOptions, threads: Option<usize>) -> Result<Self, LoadError> {
        if device.device == Device::Cpu {
            return Ok(Self {
                device,
                placement: Placement::cpu(),
                session: None,
            });
        }
        let options = SessionOptions::default()
            .with_threads(threads.unwrap_or(GPU_THREADS))
            .with_device(device);
        let session = Session::load(bundle, &options)?;
        let placement = session.placement().clone();
        let device = options.device.decided(placement.provider);
        let session = (placement.provider != Provider::Cpu).then_some(session);
        Ok(Self {
            device,
            placement,
            session,
        })
    }

    pub fn is_on_gpu(&self) -> bool {
        self.placement.provider != Provider::Cpu
    }
}
