-- Ends a lease. The pin and the mark of an attempt are recorded even if the lease is not held.
-- ARGV: format version, lease token, record in ms, pin, status (0 if there was no attempt),
--   attempt: 'n' none was made, '0' it failed, '1' its outcome is unknown
local v, s, t, n = unpack(redis.call('HMGET', KEYS[1], 'v', 's', 't', 'n'))
local attempt = ARGV[6]
if v and v ~= ARGV[1] then return {'version', v} end
if s == 'x' then return {'lost'} end
local held = s == 'c' and t == ARGV[2]
if held and n and attempt == 'n' then
  redis.call('DEL', KEYS[1])
  return {'held'}
end
if attempt == '1' and v and s ~= 'd' then redis.call('HSET', KEYS[1], 'u', '1') end
if held or (not v and attempt ~= 'n') then
  if not v then
    redis.call('HSET', KEYS[1], 'v', ARGV[1], 'p', ARGV[4], 'u', attempt)
  end
  redis.call('HSET', KEYS[1], 's', 'f', 'c', ARGV[5])
  redis.call('HDEL', KEYS[1], 't', 'l', 'n')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return {held and 'held' or 'lost'}
