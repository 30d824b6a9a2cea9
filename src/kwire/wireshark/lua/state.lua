-- What is remembered from packet to packet. Wireshark dissects all packets once, in order, and then any of
-- them again at any time: what counts is what stood before, so everything is kept with its place.

local State = {}

do
  local histories, sessions, ends

  function State.reset()
    histories, sessions, ends = {}, {}, {}
  end
  State.reset()

  -- The newest value that was put under `key` at this place (packet, offset) or before.
  function State.find(key, packet, offset)
    local list = histories[key]
    if not list then return nil end
    local low, high = 1, #list
    while low <= high do
      local middle = math.floor((low + high) / 2)
      local entry = list[middle]
      if entry.packet < packet or (entry.packet == packet and entry.offset <= offset) then
        low = middle + 1
      else
        high = middle - 1
      end
    end
    local entry = list[high]
    return entry and entry.value, entry and entry.packet, entry and entry.offset
  end

  function State.put(key, packet, offset, value)
    local list = histories[key]
    if not list then
      list = {}
      histories[key] = list
    end
    list[#list + 1] = { packet = packet, offset = offset, value = value }
  end

  -- Note that this packet is in this section of the capture, which is not always known: Wireshark tells it as
  -- a field, and there are no fields where nobody looks.
  function State.in_section(section, packet)
    ends[section] = math.max(ends[section] or 0, packet)
  end

  -- The last packet that is known to stand before this section.
  function State.before_section(section)
    for earlier = section - 1, 1, -1 do
      if ends[earlier] then return ends[earlier] end
    end
    return 0
  end

  -- What a session has told so far, in the first pass: schemas being put together, DATA numbers seen,
  -- names of addresses in the kernel, which stay what they are.
  function State.session(key)
    local session = sessions[key]
    if not session then
      session = { key = key, maps = {}, held = {}, total = 0, seen = {}, named = {} }
      sessions[key] = session
    end
    return session
  end
end
