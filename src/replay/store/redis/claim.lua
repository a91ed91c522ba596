-- Claims the lease of an event.
-- ARGV: format version, lease token, lease in ms, record in ms, pin, '1' if the request is stale
local v, s, p, t, l, u, c, i = unpack(redis.call('HMGET', KEYS[1], 'v', 's', 'p', 't', 'l', 'u', 'c', 'i'))
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local unknown = '0'
if v and v ~= ARGV[1] then return {'version', v} end
if not v or s == 'x' then
  if ARGV[6] == '1' then return {'stale'} end
  if v then redis.call('DEL', KEYS[1]) end
  v, t = nil, nil
else
  if p ~= ARGV[5] then return {'mismatch'} end
  if s == 'd' then return {'done', c, tostring(redis.call('PTTL', KEYS[1])), i or ''} end
  unknown = u
  if s == 'c' and t ~= ARGV[2] then
    if tonumber(l) > now then return {'busy'} end
    -- The previous holder recorded no outcome.
    unknown = '1'
  end
end
-- 'n': no attempt was made yet, and none before it.
if not v then redis.call('HSET', KEYS[1], 'n', '1')
elseif t ~= ARGV[2] then redis.call('HDEL', KEYS[1], 'n') end
redis.call('HSET', KEYS[1], 'v', ARGV[1], 's', 'c', 'p', ARGV[5], 't', ARGV[2],
  'l', string.format('%.0f', now + ARGV[3]), 'u', unknown)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'won', unknown}
