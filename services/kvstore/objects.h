// SPDX-License-Identifier: Apache-2.0
// The objects a peer is given: KvStore, and through it Session and Sequence.
#pragma once

#include <capnp/capability.h>

#include "services/kvstore/connection.h"

namespace palimpsest {

// The bootstrap object of `connection`, which owns it through its RPC system.
wire::KvStore::Client NewStoreObject(Hub& hub, Connection& connection);

}  // namespace palimpsest
